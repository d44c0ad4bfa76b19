"""Sizes of a recipe's networks, counted from networks without data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mvd_ds.config import TeacherSettings, TrainingRecipe
from mvd_ds.models.flops import ClipFlops, clip_flops
from mvd_ds.models.masked import MaskedPredictor, output_widths
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.training.engine.engine_config import Sizes, sizes_of
from mvd_ds.training.optim import parameter_groups


class NetworkSizes(NamedTuple):
    """One network.

    Attributes:
        groups: elements of every tensor, by parameter group of the optimizer (one group for what is frozen).
        thresholds: largest block and tensor, from which the engine's thresholds follow.
        blocks: number of blocks.
        tokens: that a clip has in it, class tokens included, one mask.
        width: of a token.
    """

    groups: list[list[int]]
    thresholds: Sizes
    blocks: int
    tokens: int
    width: int

    @property
    def block(self) -> int:
        """Parameters of the largest block."""
        return self.thresholds.block

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(sum(group) for group in self.groups)

    def small(self, threshold: int) -> int:
        """Parameters in tensors of at most ``threshold`` elements, which ZeRO-3 keeps whole."""
        return sum(count for group in self.groups for count in group if count <= threshold)


class RecipeSizes(NamedTuple):
    """What a recipe trains and asks.

    Attributes:
        student: encoder and decoders together; tokens and width are the encoder's.
        decoder_tokens, decoder_width, decoder_blocks: of each decoder.
        decoders: output width of each by name.
        teachers: by name.
        flops: model FLOPs of a clip.
    """

    student: NetworkSizes
    decoder_tokens: int
    decoder_width: int
    decoder_blocks: int
    decoders: dict[str, int]
    teachers: dict[str, NetworkSizes]
    flops: ClipFlops


def recipe_sizes(recipe: TrainingRecipe) -> RecipeSizes:
    """Sizes of everything that ``recipe`` holds in memory."""
    outputs = output_widths(recipe)
    with torch.device("meta"):
        student = MaskedPredictor(recipe.model, recipe.grid, recipe.decoder, outputs)
    slots, rows, columns = recipe.grid
    tokens = slots * rows * columns
    groups = [[parameter.numel() for parameter in group["params"]] for group in parameter_groups(student, recipe.optimizer)]
    visible = tokens - recipe.masked_tokens + recipe.model.cls_token
    return RecipeSizes(
        NetworkSizes(groups, sizes_of(student), recipe.model.depth, visible, recipe.model.embed_dim),
        tokens + recipe.model.cls_token,
        recipe.decoder.embed_dim or recipe.model.embed_dim,
        recipe.decoder.depth,
        outputs,
        {name: _teacher(recipe, teacher) for name, teacher in recipe.teachers.items()},
        clip_flops(recipe),
    )


def _teacher(recipe: TrainingRecipe, settings: TeacherSettings) -> NetworkSizes:
    """A teacher without the blocks behind the last one that is read."""
    slots, rows, columns = recipe.teacher_grid(settings)
    depth = settings.depth
    with torch.device("meta"):
        if settings.timm_name is not None:
            import timm

            network: nn.Module = timm.create_model(settings.timm_name, num_classes=0)
        else:
            side = settings.input_px or recipe.data.clip.size_px
            depth = max(block % settings.depth for block in settings.target.blocks) + 1
            grid = settings.grid(1 if settings.kind == "image" else recipe.data.clip.frames, side)
            network = VisionTransformer(settings.model_copy(update={"depth": depth}), grid)
            if settings.target.norm == "none":
                network.norm = nn.Identity()
    sequences = slots if settings.kind == "image" else 1
    tokens = slots * rows * columns + sequences * settings.cls_token
    counts = [parameter.numel() for parameter in network.parameters()]
    return NetworkSizes([counts], sizes_of(network), depth, tokens, settings.embed_dim)
