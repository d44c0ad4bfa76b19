"""Floating point operations per clip, counted from a recipe.

Model arithmetic only: 2 per multiply-accumulate of matrix products; no softmax, norm, recomputation, padding or
optimizer. One block on N tokens of width D takes 2 * (4 + 2 * mlp_ratio) * N * D^2 + 4 * N^2 * D; the MLP of the last one
of a teacher that is read under one mask computes predicted tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from mvd_ds.config import EncoderSettings, Grid, HeadShape, PoolingSettings, TrainingRecipe
from mvd_ds.models.block_flops import block_flops, encoder_flops
from mvd_ds.models.networks import family_of
from mvd_ds.models.readouts import readout_of
from mvd_ds.models.text.tower import tower_shape


class CountedTarget(Protocol):
    """The properties of a target that are counted: what it asks of the student, and the operations that it takes to make it."""

    head: HeadShape

    def flops(self, tokens: int) -> int:
        """Return the operations for a sample of ``tokens`` tokens."""


class ClipFlops(NamedTuple):
    """Forward operations for one clip, all its masks included.

    Attributes:
        encoder: the encoder, on visible tokens.
        decoders: every decoder by name.
        teachers: every teacher by name; once per clip, however many masks there are.
        targets: every target by name, made of what its teacher gives.
        language: the text tower, and the pass over whole clips where the loss of captions has its own.
        frozen_text: the text tower in its place where it does not learn.
    """

    encoder: int
    decoders: dict[str, int]
    teachers: dict[str, int]
    targets: dict[str, int]
    language: int = 0
    frozen_text: int = 0

    @property
    def frozen(self) -> int:
        """Operations of one pass through the networks that are not trained: teachers, targets, a frozen text tower."""
        return sum(self.teachers.values()) + sum(self.targets.values()) + self.frozen_text

    @property
    def forward(self) -> int:
        """Operations of one forward pass of everything."""
        return self.encoder + sum(self.decoders.values()) + self.language + self.frozen

    @property
    def training(self) -> int:
        """Operations of a training step: trained networks count three times (backward takes twice the forward), teachers once."""
        return 3 * (self.encoder + sum(self.decoders.values()) + self.language) + self.frozen


def clip_flops(recipe: TrainingRecipe, targets: Mapping[str, CountedTarget]) -> ClipFlops:
    """Return the operations for one clip by part.

    Args:
        recipe: the run.
        targets: what its student predicts, by name.
    """
    slots, rows, columns = recipe.grid
    predicted = recipe.predicted_tokens
    visible = slots * rows * columns - recipe.masked_tokens
    masks = recipe.masking.masks_per_clip
    heads = [target.head.prototypes for target in targets.values() if target.head.prototypes is not None]
    local = sum(
        head.local_crops * encoder_flops(recipe.model, slots * (head.local_px // recipe.model.patch_px) ** 2, recipe.model.depth)
        for head in heads
    )
    return ClipFlops(
        encoder=masks * encoder_flops(recipe.model, visible, recipe.model.depth) + local,
        decoders={
            name: masks * readout_of(target.head).flops(target.head, recipe.model, visible, predicted)
            for name, target in targets.items()
        },
        teachers={name: family_of(teacher).flops(recipe, teacher) for name, teacher in recipe.asked_teachers.items()},
        targets={name: masks * target.flops(recipe.token_counts[target.head.tokens]) for name, target in targets.items()},
        **_language_flops(recipe),
    )


def _language_flops(recipe: TrainingRecipe) -> dict[str, int]:
    language, model = recipe.language, recipe.model
    if language is None:
        return {}
    whole = encoder_flops(model, math.prod(recipe.grid), model.depth) if language.sees == "all" else 0
    shape = tower_shape(language.text, model)
    texts = shape.depth * block_flops(shape.length, shape.width, shape.mlp_ratio, shape.style.mlp)
    return {"language": whole, "frozen_text": texts} if language.text.frozen else {"language": whole + texts}


def classifier_flops(settings: EncoderSettings, grid: Grid, classes: int, pooling: PoolingSettings) -> int:
    """Return the operations of one forward pass of a classifier on one clip: all tokens, their pooling if by attention, the head.

    Attention of q queries on N tokens takes 4 * N * D^2 (keys, values) + 4 * q * N * D + 16 * q * D^2 (query, projection, MLP),
    once for each block that is pooled.
    """
    tokens, width = math.prod(grid), settings.embed_dim
    found = encoder_flops(settings, tokens, settings.depth) + 2 * width * classes
    if pooling.kind == "attention":
        queries = classes if pooling.queries == "class" else 1
        found += len(pooling.layers) * (4 * tokens * width**2 + 4 * queries * tokens * width + 16 * queries * width**2)
    return found
