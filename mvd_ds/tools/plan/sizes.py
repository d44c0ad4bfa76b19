"""The sizes of a recipe's networks, counted on torch's meta device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from mvd_ds.config import LANGUAGE, ConfigError, FinetuneRecipe, HeadShape, LearningRecipe, TeacherSettings, TrainingRecipe
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.classifiers.adaptation import classifier_of
from mvd_ds.models.flops import ClipFlops, classifier_flops
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.networks import family_of
from mvd_ds.models.text.tower import tower_shape
from mvd_ds.models.tokenizers.flops import tokenizer_flops
from mvd_ds.models.tokenizers.network import Tokenizer
from mvd_ds.objectives.targets import head_shapes
from mvd_ds.runs.student import recipe_flops
from mvd_ds.training.engine.engine_config import Sizes, sizes_of
from mvd_ds.training.optim import parameter_groups

#: Classes of a classifier's head where they are not known: those of Kinetics-400.
CLASSES = 400


class NetworkSizes(NamedTuple):
    """The sizes of one network.

    Attributes:
        groups: number of elements of every tensor, by parameter group of the optimizer (one group for a frozen network).
        thresholds: largest block and tensor, from which the engine's thresholds follow.
        blocks: number of blocks.
        tokens: number of tokens of a clip under one mask, class tokens included.
        width: number of channels of a token.
        forward_values: numbers that a forward pass for one clip holds at once; None: by tokens and width.
    """

    groups: list[list[int]]
    thresholds: Sizes
    blocks: int
    tokens: int
    width: int
    forward_values: int | None = None

    @property
    def block(self) -> int:
        """Return the parameters of the largest block."""
        return self.thresholds.block

    @property
    def parameters(self) -> int:
        """Return the number of all parameters."""
        return sum(sum(group) for group in self.groups)

    def small(self, threshold: int) -> int:
        """Return the parameters in tensors of at most ``threshold`` elements, which ZeRO-3 keeps whole."""
        return sum(count for group in self.groups for count in group if count <= threshold)


class HeadSizes(NamedTuple):
    """The sizes of what predicts one target.

    Attributes:
        tokens: number of tokens in its blocks for a sample.
        width: number of channels of a token there.
        blocks: number of its blocks.
    """

    tokens: int
    width: int
    blocks: int


class RecipeSizes(NamedTuple):
    """The sizes of a recipe's student, decoders and teachers, and the FLOPs of a clip.

    Attributes:
        student: encoder and decoders together; tokens and width are the encoder's.
        decoders: sizes of each decoder, or other head, by name.
        teachers: sizes of each teacher by name.
        flops: model FLOPs of a clip.
    """

    student: NetworkSizes
    decoders: dict[str, HeadSizes]
    teachers: dict[str, NetworkSizes]
    flops: ClipFlops


def teachers_of(recipe: LearningRecipe) -> dict[str, TeacherSettings]:
    """Return the teachers by name that a recipe loads; only stage two has any, and none with cached targets."""
    return recipe.asked_teachers if isinstance(recipe, TrainingRecipe) else {}


def recipe_sizes(recipe: LearningRecipe) -> RecipeSizes:
    """Return the sizes of all networks that ``recipe`` holds in memory.

    Raises:
        TypeError: if the recipe is neither of a masked predictor nor of a classifier.
    """
    if isinstance(recipe, FinetuneRecipe):
        return _classifier_sizes(recipe)
    if isinstance(recipe, TokenizerRecipe):
        return _tokenizer_sizes(recipe)
    if isinstance(recipe, TrainingRecipe):
        return _predictor_sizes(recipe)
    raise TypeError(f"{type(recipe).__name__} has no sizes")


def _classifier_sizes(recipe: FinetuneRecipe) -> RecipeSizes:
    """Return the sizes of a classifier, which sees all tokens and has no decoder.

    Raises:
        ConfigError: if prompts are trained, whose frozen towers are known by their weights alone.
    """
    if recipe.adaptation.learns_prompts:
        raise ConfigError(
            f"adaptation {recipe.adaptation.kind}: frozen towers of prompts are not planned; run.stop_after_steps=2 measures them"
        )
    with torch.device("meta"):
        model = classifier_of(recipe, CLASSES)
    groups = [[parameter.numel() for parameter in group["params"]] for group in parameter_groups(model, recipe.optimizer)]
    tokens = math.prod(recipe.grid) + recipe.model.prefix_tokens
    student = NetworkSizes(groups, sizes_of(model), recipe.model.depth, tokens, recipe.model.embed_dim)
    flops = ClipFlops(classifier_flops(recipe.model, recipe.grid, CLASSES, recipe.pooling), {}, {}, {})
    return RecipeSizes(student, {}, {}, flops)


def _tokenizer_sizes(recipe: TokenizerRecipe) -> RecipeSizes:
    """Return the sizes of a tokenizer with its teachers; its blocks and those of its decoder see all tokens."""
    with torch.device("meta"):
        network = Tokenizer(recipe)
    tokens, shape = math.prod(recipe.grid), recipe.reconstructed
    groups = [[parameter.numel() for parameter in group["params"]] for group in parameter_groups(network, recipe.optimizer)]
    return RecipeSizes(
        NetworkSizes(groups, sizes_of(network), recipe.model.depth, tokens, recipe.model.embed_dim),
        {"codes": HeadSizes(tokens, shape.decoder.sizes(recipe.model).width, shape.decoder.depth)},
        {name: _teacher(recipe, teacher) for name, teacher in recipe.teachers.items()},
        tokenizer_flops(recipe),
    )


def _predictor_sizes(recipe: TrainingRecipe) -> RecipeSizes:
    """Return the sizes of a student with its decoders and teachers."""
    with torch.device("meta"):
        weighs = recipe.balance == "uncertainty"
        student = MaskedPredictor(recipe.model, recipe.grid, head_shapes(recipe), weighs, recipe.language)
    slots, rows, columns = recipe.grid
    tokens = slots * rows * columns
    groups = [[parameter.numel() for parameter in group["params"]] for group in parameter_groups(student, recipe.optimizer)]
    # A text tower that does not learn counts as if it did: at most.
    groups += [[parameter.numel() for parameter in student.parameters() if not parameter.requires_grad]]
    visible = tokens - recipe.masked_tokens + recipe.model.prefix_tokens + recipe.local_tokens
    return RecipeSizes(
        NetworkSizes(groups, sizes_of(student), recipe.model.depth, visible, recipe.model.embed_dim),
        {name: _head(recipe, shape) for name, shape in student.heads.items()} | _text(recipe),
        {name: _teacher(recipe, teacher) for name, teacher in recipe.asked_teachers.items()},
        recipe_flops(recipe),
    )


def _head(recipe: TrainingRecipe, shape: HeadShape) -> HeadSizes:
    """Return the sizes of what predicts one target."""
    width, counts = shape.decoder.sizes(recipe.model).width, recipe.token_counts
    if shape.decoder.attention == "cross":
        # Mask tokens alone: what they look at adds keys and values, which are fewer than the 2 of 16 values it has less of each.
        return HeadSizes(counts[shape.tokens], width, shape.decoder.depth)
    return HeadSizes(counts["all"] + recipe.model.prefix_tokens, width, shape.decoder.depth)


def _text(recipe: TrainingRecipe) -> dict[str, HeadSizes]:
    """Return the sizes of the text tower, which holds activations as a decoder does."""
    if recipe.language is None:
        return {}
    shape = tower_shape(recipe.language.text, recipe.model)
    return {LANGUAGE: HeadSizes(shape.length, shape.width, shape.depth)}


def _teacher(recipe: TrainingRecipe, settings: TeacherSettings) -> NetworkSizes:
    """Return the sizes of a teacher without the blocks behind the last one that is read."""
    slots, rows, columns = recipe.teacher_grid(settings)
    side = settings.input_px or recipe.data.clip.size_px
    family = family_of(settings)
    values = family.peak(recipe, settings) if family.peak is not None else None
    network, depth = family.outline(settings, settings.input_frames or recipe.data.clip.frames, side)
    sequences = slots if settings.kind == "image" else 1
    tokens = slots * rows * columns + sequences * settings.prefix_tokens
    counts = [parameter.numel() for parameter in network.parameters()]
    return NetworkSizes([counts], sizes_of(network), depth, tokens, settings.embed_dim, values)
