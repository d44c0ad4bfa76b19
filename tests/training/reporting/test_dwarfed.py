"""The hint to ``balance``: said once, where weighted losses are far apart and nothing else weighs them."""

from __future__ import annotations

import pytest

from mvd_ds.config import FinetuneRecipe, load_recipe
from mvd_ds.training.reporting.dwarfed import dwarfed_targets
from shrinking import shipped
from small_tokenizers import tokenizer_recipe


@pytest.mark.parametrize(
    ("overrides", "losses", "said"),
    [
        ([], {"image": 0.5, "video": 9.9}, None),
        ([], {"image": 0.5, "video": 10.0}, "the loss of video, 10 with its weight, dwarfs that of image, 0.5: "),
        ([], {"image": 30.0, "video": 1.0}, "the loss of image, 30 with its weight, dwarfs that of video, 1: "),
        (["teachers.video.weight=0.1"], {"image": 0.5, "video": 12.0}, None),
        (["teachers.video.target.weight=0.01"], {"image": 0.5, "video": 2.0}, "dwarfs that of video, 0.02: "),
        (["teachers.video.weight=0"], {"image": 0.5, "video": 99.0}, None),
        (["balance=loss_relative"], {"image": 0.5, "video": 99.0}, None),
        (["labels={classes: 3}"], {"image": 0.5, "video": 0.6, "labels": 99.0}, None),
    ],
)
def test_losses_that_are_far_apart_are_named(overrides: list[str], losses: dict[str, float], said: str | None) -> None:
    line = dwarfed_targets(shipped(overrides), losses)
    assert line is None if said is None else line is not None and said in line and "balance=loss_relative" in line


def test_codes_are_brought_to_scale_by_a_weight() -> None:
    codes = shipped(["teachers.video.target={kind: codes, codebook: later, codes: 8}"])
    line = dwarfed_targets(codes, {"image": 0.3, "video": 9.0})
    assert line is not None and "teachers.NAME.weight" in line and "loss_relative" not in line


def test_a_classifier_has_one_loss() -> None:
    recipe = load_recipe("finetune_k400_large")
    assert isinstance(recipe, FinetuneRecipe) and dwarfed_targets(recipe, {"class": 1.0}) is None


def test_a_tokenizer_has_losses_of_its_own() -> None:
    assert dwarfed_targets(tokenizer_recipe(), {"reconstruction": 1.0, "commitment": 0.01}) is None
