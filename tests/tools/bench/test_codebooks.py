"""Steps of codes, of prototypes and of averages that teach are measured, with codebooks of the geometry that is asked for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.config.tokenizers.card import read_card
from mvd_ds.tools.bench.codebooks import with_random_codebooks
from mvd_ds.tools.bench.step import StepBenchOptions, measure_step
from mvd_ds.tools.bench.step_variants import step_recipe
from small_tokenizers import PIXELS, tokenizer_recipe, write_tokenizer

_NETWORK = ("size=null", "embed_dim=32", "depth=2", "num_heads=2")
TINY = [
    *("decoder.embed_dim=16", "decoder.num_heads=2", "decoder.depth=1", "batch.micro=2"),
    *("data.clip.frames=4", "data.clip.size_px=64", *(f"model.{item}" for item in _NETWORK)),
]
CLIP = ["teachers.clip.network=timm:test_vit", "teachers.clip.embed_dim=64"]
CASES = {
    "beitv2_base": CLIP,
    "ibot_small": ["teachers.average.target.prototypes.local_px=32", "teachers.average.target.prototypes.local_crops=2"],
    "vjepa_base": [],
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_ours_is_measured(name: str) -> None:
    result = measure_step(name, TINY + CASES[name], StepBenchOptions(device="cpu", against=()))
    assert result["variants"]["ours"]["step_ms"] > 0 and 0 < result["gate"]["losses"]["ours"] < math.inf


def test_a_codebook_that_is_not_there_has_the_codes_that_are_stated(tmp_path: Path) -> None:
    recipe = step_recipe("beitv2_base", TINY + CLIP, "recipe", torch.device("cpu"))
    made = with_random_codebooks(recipe, tmp_path).teachers["clip"].target
    assert made.codebook == str(tmp_path / "clip")
    card = read_card(made.codebook)
    assert (card.codes, card.recipe.code_width, card.is_tokenwise) == (8192, 32, True)
    unstated = step_recipe("beitv2_base", [*TINY, *CLIP, "teachers.clip.target.codes=null"], "recipe", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"teachers\.clip: codebook.* there is no file"):
        with_random_codebooks(unstated, tmp_path)


def test_a_codebook_that_is_there_lends_its_sizes(tmp_path: Path) -> None:
    there = write_tokenizer(tmp_path / "there", tokenizer_recipe())
    settings = [*TINY, *CLIP, f"teachers.clip.target.codebook={there}", "teachers.clip.target.codes=16"]
    made = with_random_codebooks(step_recipe("beitv2_base", settings, "recipe", torch.device("cpu")), tmp_path / "made")
    codebook = made.teachers["clip"].target.codebook
    assert codebook == str(tmp_path / "made" / "clip")
    card = read_card(codebook)
    assert (card.codes, card.recipe.code_width, card.recipe.model.depth, card.recipe.token_width) == (16, 4, 1, 64)


def test_codes_of_pixels_are_those_of_a_teachers_tokens_by_themselves(tmp_path: Path) -> None:
    there = write_tokenizer(tmp_path / "there", tokenizer_recipe(**PIXELS))
    settings = [*TINY, *CLIP, f"teachers.clip.target.codebook={there}", "teachers.clip.target.codes=16"]
    made = with_random_codebooks(step_recipe("beitv2_base", settings, "recipe", torch.device("cpu")), tmp_path / "made")
    card = read_card(str(made.teachers["clip"].target.codebook))
    assert (card.codes, card.recipe.code_width, card.recipe.sees_pixels, card.is_tokenwise) == (16, 4, False, True)
