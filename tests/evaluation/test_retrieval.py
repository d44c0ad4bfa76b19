"""Ranks of retrieval: by hand, with texts that several videos have, and with ties."""

from __future__ import annotations

import itertools

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
    assert (found["videos"], found["texts"], found["texts_of_several_videos"]) == (3, 3, 1)
    # a (of video 0) is nearest to 1, then 0 and 2, which are as near; b is nearest to 0, its own; c to 2, its own.
    every = {"r5": 1, "r10": 1, "median_rank": 1, "chance_r5": 1, "chance_r10": 1}
    # By chance: a and c have one of three videos, b has two.
    assert found["text_to_video"] == pytest.approx({**every, "r1": 2 / 3, "chance_r1": (1 / 3 + 2 / 3 + 1 / 3) / 3})
    # video 0 is nearest to b, its own; video 1 to a, then b, its own; video 2 to c, its own.
    assert found["video_to_text"] == pytest.approx({**every, "r1": 2 / 3, "chance_r1": (2 / 3 + 1 / 3 + 1 / 3) / 3})


def test_what_scores_alike_stands_before_the_right_answer() -> None:
    """A tower that says the same of everything has found nothing."""
    same = torch.ones(20, 4) / 2
    found = retrieval(same, same, torch.eye(20, dtype=torch.bool))
    assert {"r1": 0.0, "r5": 0.0, "r10": 0.0, "median_rank": 20.0}.items() <= found["text_to_video"].items()
    assert found["text_to_video"]["chance_r5"] == pytest.approx(5 / 20)
    generator = torch.Generator().manual_seed(0)
    unit = functional.normalize(torch.randn(20, 8, generator=generator), dim=-1)
    assert retrieval(unit, unit, torch.eye(20, dtype=torch.bool))["video_to_text"]["r1"] == 1.0


def test_vectors_that_are_no_numbers_find_nothing() -> None:
    texts, broken = torch.eye(20), torch.full((20, 20), torch.nan)
    for videos, vectors in ((broken, texts), (texts, broken)):
        found = retrieval(videos, vectors, torch.eye(20, dtype=torch.bool))
        for way in ("text_to_video", "video_to_text"):
            assert {"r1": 0.0, "r10": 0.0, "median_rank": 20.0}.items() <= found[way].items()


def test_chance_is_what_lists_in_random_order_hit() -> None:
    """One caption of most videos makes R@1 easy; chance says so, as a count over all orders does."""
    right = torch.tensor([[True, True, True, False], [False, False, False, True], [True, False, True, False]])
    unit = functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    found = retrieval(unit, unit[:3], right.T)["text_to_video"]
    orders = list(itertools.permutations(range(4)))
    for length in (1, 5):
        hits = [any(row[place] for place in order[:length]) for row in right.tolist() for order in orders]
        assert found[f"chance_r{length}"] == pytest.approx(sum(hits) / len(hits))
