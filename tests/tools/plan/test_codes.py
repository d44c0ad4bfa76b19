"""Codebooks in a plan: 8,192 codes beside base teachers, as arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.objectives.targets import build_targets
from mvd_ds.tools.plan.codes import codebook_bytes, perceptual_bytes, search_bytes, state_bytes
from mvd_ds.tools.plan.sizes import recipe_sizes
from small_tokenizers import PIXELS, student_of_pixels, student_recipe, tokenizer_recipe, write_tokenizer

CODES = 8192


def test_a_frozen_codebook_of_a_base_teacher_takes_a_mebibyte_and_its_search_128() -> None:
    recipe = load_recipe("beitv2_base")
    assert isinstance(recipe, TrainingRecipe)
    held, searched = codebook_bytes(recipe, recipe.teachers["clip"])
    assert (held, searched) == (4 * CODES * 32, 4 * 2**25)
    assert search_bytes(100, tokenizer_recipe()) == 4 * 100 * 64 * 4, "fewer scores than the most are all held"


def test_a_tokenizer_that_is_there_says_what_its_encoder_takes(tmp_path: Path) -> None:
    student = student_recipe(write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe()))
    held, _ = codebook_bytes(student, student.teachers["video"])
    block = 12 * 32**2 + 32 * (2 + 1 + 4 + 1) + 2 * 2 * 32  # matrices, biases without the keys', norms
    encoder = (32 * 32 + 32) + block + 2 * 32 + (32 * 32 + 32) + (32 * 4 + 4)
    assert held == 4 * 16 * 4 + 4 * encoder


def test_a_learned_codebook_is_counted_with_its_sums() -> None:
    recipe = load_recipe("kmeans_base")
    assert isinstance(recipe, TokenizerRecipe)
    assert state_bytes(recipe) == 2 * (CODES * (4 * 768 + 12) + 8 * (CODES * 769 + 1024 * 768))
    sizes = recipe_sizes(recipe)
    assert sizes.student.parameters == 768 * 768 + 768 and sizes.flops.targets == {"codes": 2 * 1568 * CODES * 768}


def test_a_tokenizer_of_clips_is_counted_with_its_encoder_and_its_perceptual_teacher(tmp_path: Path) -> None:
    recipe = tokenizer_recipe(**PIXELS)
    sizes = recipe_sizes(recipe)
    block = 8 * 64 * 32**2 + 4 * 4 * 64 * 32**2 + 4 * 64**2 * 32
    assert sizes.flops.encoder == 2 * 64 * 3 * 2 * 12**2 * 32 + 2 * block
    # An image teacher sees a frame of each of four tubelets, 16 tokens each: twice forward, once back to the pixels.
    frame = 2 * 16 * 3 * 12**2 * 32 + 2 * (8 * 16 * 32**2 + 4 * 4 * 16 * 32**2 + 4 * 16**2 * 32)
    assert sizes.flops.teachers == {"image": 3 * 4 * frame}
    assert perceptual_bytes(recipe, sizes.teachers) == 4 * (4 * (16 * 2 + 2) * 64 * 32 + 8 * 3 * 8 * 48**2)
    assert perceptual_bytes(tokenizer_recipe(), {}) == 0
    student = student_of_pixels(write_tokenizer(tmp_path / "made", recipe), recipe)
    held, _ = codebook_bytes(student, student.teachers["video"])
    assert held == 4 * 16 * 4 + 4 * ((32 * 32 + 32) + (32 * 4 + 4)), "its encoder is the teacher, and counted there"


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("targets.cache=somewhere", "targets.cache keeps features"),
        ("balance=loss_relative", "balance loss_relative follows a mean"),
    ],
)
def test_what_is_made_for_features_is_refused_for_codes(setting: str, line: str) -> None:
    recipe = load_recipe("beitv2_base", [setting])
    assert isinstance(recipe, TrainingRecipe)
    with pytest.raises(ConfigError, match=line):
        build_targets(recipe)
