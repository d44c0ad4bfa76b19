"""Ranks of retrieval: by hand, with texts that several videos have, and with ties."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mvd_ds.evaluation.retrieval import retrieval, unique_texts


def test_a_text_of_several_videos_is_one_and_finds_any_of_them() -> None:
    texts, tells = unique_texts([("a", "b"), ("b",), ("c", "c")])
    assert texts == ["a", "b", "c"]
    assert tells.tolist() == [[True, True, False], [False, True, False], [False, False, True]]
    videos = functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]]), dim=-1)
    vectors = functional.normalize(torch.tensor([[0.7, 0.7], [1.0, 0.0], [0.1, 1.0]]), dim=-1)
    found = retrieval(videos, vectors, tells)
    assert (found["videos"], found["texts"]) == (3, 3)
    # a (of video 0) is nearest to 1, then 0 and 2, which are as near; b is nearest to 0, its own; c to 2, its own.
    assert found["text_to_video"] == pytest.approx({"r1": 2 / 3, "r5": 1, "r10": 1, "median_rank": 1})
    # video 0 is nearest to b, its own; video 1 to a, then b, its own; video 2 to c, its own.
    assert found["video_to_text"] == pytest.approx({"r1": 2 / 3, "r5": 1, "r10": 1, "median_rank": 1})


def test_what_scores_alike_stands_before_the_right_answer() -> None:
    """A tower that says the same of everything has found nothing."""
    same = torch.ones(20, 4) / 2
    found = retrieval(same, same, torch.eye(20, dtype=torch.bool))
    assert found["text_to_video"] == {"r1": 0.0, "r5": 0.0, "r10": 0.0, "median_rank": 20.0}
    generator = torch.Generator().manual_seed(0)
    unit = functional.normalize(torch.randn(20, 8, generator=generator), dim=-1)
    assert retrieval(unit, unit, torch.eye(20, dtype=torch.bool))["video_to_text"]["r1"] == 1.0
