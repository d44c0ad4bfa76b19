"""Losses of every kind of target are named as a reader knows them, and a broken recipe costs no report."""

from __future__ import annotations

from typing import Any

import pytest

from mvd_ds.config import dump, load_recipe
from mvd_ds.tools.report.loss_words import in_words, loss_kinds


@pytest.mark.parametrize(
    ("name", "kinds"), [("quickstart_video", {"pixels": "squared error"}), ("quickstart_finetune", {"class": "cross-entropy"})]
)
def test_stage_one_and_classifiers(name: str, kinds: dict[str, str]) -> None:
    assert loss_kinds(dump(load_recipe(name))) == kinds


def test_every_target_of_a_teacher_has_its_loss() -> None:
    more = [
        "teachers.image.more_targets.all.kind=summary",
        "teachers.video.more_targets.pairs.kind=relations",
        "teachers.video.more_targets.grams.kind=token_relations",
        "teachers.video.more_targets.late.loss={cosine: 0.9, smooth_l1: 0.1}",
    ]
    assert loss_kinds(dump(load_recipe("quickstart_distill", more))) == {
        "image": "smooth L1",
        "image_all": "angle",
        "video": "smooth L1",
        "video_pairs": "KL divergence",
        "video_grams": "difference of cosines",
        "video_late": "0.9 cosine + 0.1 smooth L1",
    }


@pytest.mark.parametrize("recipe", [{}, {"teachers": [1]}, {"teachers": {"a": 3}}, {"teachers": {"a": {"loss": {"l1": "x"}}}}])
def test_a_recipe_that_somebody_broke_has_no_words(recipe: dict[str, Any]) -> None:
    assert not any(loss_kinds(recipe).values()) and in_words(loss_kinds(recipe).values()) == "no unit"
