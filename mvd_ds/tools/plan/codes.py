"""The memory of codebooks: of one that a teacher holds frozen, and of one that is being learned."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mvd_ds.config import LearningRecipe, TeacherSettings
from mvd_ds.config.tokenizers.card import find_card
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.config.tokenizers.settings import TokenizerSettings
from mvd_ds.models.tokenizers.nearest import MOST_SCORES
from mvd_ds.models.tokenizers.network import TokenEncoder
from mvd_ds.tools.plan.sizes import NetworkSizes

#: Channels of a code where its tokenizer is not there to say: those of BEiT v2.
ASSUMED_WIDTH: int = TokenizerSettings().width


def codebook_bytes(recipe: LearningRecipe, settings: TeacherSettings) -> tuple[int, int]:
    """Return the bytes that the tokenizers of a teacher hold, and those of the search for codes while they run.

    Vectors are fp32, the encoder has the precision of the teacher. Scores of tokens and codes come some at a time.
    """
    held, searched, size = 0, 0, 2 if recipe.engine.precision == "bf16" else 4
    for target in settings.targets.values():
        if target.kind != "codes":
            continue
        card = find_card(target, "target.codebook")
        codes = card.codes if card is not None else target.codes or 0
        width = card.recipe.code_width if card is not None else ASSUMED_WIDTH
        held += 4 * codes * width
        if card is not None:
            held += size * _parameters(card.recipe)
        searched = max(searched, search_bytes(codes, recipe))
    return held, searched


def search_bytes(codes: int, recipe: LearningRecipe) -> int:
    """Return the bytes of the scores that the search for the codes of a micro batch holds at once, fp32."""
    return 4 * min(codes * math.prod(recipe.grid) * recipe.batch.micro, max(MOST_SCORES, codes))


def state_bytes(recipe: TokenizerRecipe) -> int:
    """Return the bytes of a codebook that is being learned.

    Vectors (fp32), shares and counts, and the copy of them that a skipped step goes back to; sums of a step in fp64 and the
    tensor that they are reduced in: of every code's tokens, of their number, and one token of every clip.
    """
    codes, width = recipe.tokenizer.codes, recipe.code_width
    state = codes * (4 * width + 4 + 8)
    sums = 8 * (codes * (1 + width) + recipe.batch.global_ * width)
    return 2 * (state + sums)


def perceptual_bytes(recipe: TokenizerRecipe, teachers: Mapping[str, NetworkSizes]) -> int:
    """Return the bytes that the pass of a perceptual teacher over reconstructed clips keeps: gradients go back through it.

    Its blocks keep 16 values a token and channel, as those of a student; beside them are its tokens of both clips, the clip that
    was made of codes in fp32, and that in the precision of the teacher.
    """
    name, size = recipe.tokenizer.perceptual, 2 if recipe.engine.precision == "bf16" else 4
    if name is None:
        return 0
    teacher, clip = teachers[name], recipe.data.clip
    tokens = size * (16 * teacher.blocks + 2) * teacher.tokens * teacher.width
    return recipe.batch.micro * (tokens + (4 + size) * 3 * clip.frames * clip.size_px**2)


def _parameters(recipe: TokenizerRecipe) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TokenEncoder(recipe).parameters())
