"""Floating point operations of a tokenizer's training, by part."""

from __future__ import annotations

import math

from mvd_ds.config.tokenizers.card import TokenizerCard
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.flops import ClipFlops
from mvd_ds.models.networks import family_of
from mvd_ds.models.tokenizers.network import decoder_flops, encoder_flops


def tokenizer_flops(recipe: TokenizerRecipe) -> ClipFlops:
    """Return the forward operations of a tokenizer's networks for one clip; those of the choice of codes are its target's.

    A perceptual teacher sees the clip and its reconstruction, and passes gradients to the pixels: 1 + 1 + 1 times its forward.
    """
    tokens = math.prod(recipe.grid)
    teachers = {name: family_of(teacher).flops(recipe, teacher) for name, teacher in recipe.teachers.items()}
    if recipe.tokenizer.perceptual is not None:
        teachers[recipe.tokenizer.perceptual] *= 3
    codes = TokenizerCard(recipe, None).flops(tokens)
    return ClipFlops(encoder_flops(recipe, tokens), {"codes": decoder_flops(recipe, tokens)}, teachers, {"codes": codes})
