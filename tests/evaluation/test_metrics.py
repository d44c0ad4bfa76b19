"""Accuracy counts every sample once, whoever holds it."""

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from mvd_ds.evaluation.metrics import AccuracyCounter, label_ranks

RNG = np.random.default_rng(0)
SCORES = torch.from_numpy(RNG.normal(size=(101, 9)))
LABELS = torch.from_numpy(RNG.integers(0, 9, 101))


def counted(scores: torch.Tensor = SCORES, labels: torch.Tensor = LABELS, **flags: torch.Tensor) -> tuple[float, float, int]:
    counter = AccuracyCounter()
    counter.add(scores, labels, **flags)
    return counter.merged()


def test_it_is_what_scikit_learn_counts() -> None:
    found = counted()
    for top, share in ((1, found.top1), (5, found.top5)):
        assert share == pytest.approx(top_k_accuracy_score(LABELS, SCORES, k=top, labels=range(9)))
    assert found.samples == 101


def test_batches_and_processes_do_not_matter() -> None:
    counters = []
    for rank in range(3):
        counter = AccuracyCounter()
        for first in range(rank * 7, 101, 21):
            counter.add(SCORES[first : first + 7], LABELS[first : first + 7])
        counters.append(counter)
    counters.append(AccuracyCounter())  # a rank that has nothing

    def gather(value: list[int]) -> list[list[int]]:
        return [[0, 0, 0] if counter._counts is None else counter._counts.tolist() for counter in counters]

    assert counters[0].merged(gather) == counters[3].merged(gather) == counted()


def test_padded_samples_do_not_count() -> None:
    padded = torch.cat((SCORES, SCORES[-1:].expand(4, -1))), torch.cat((LABELS, LABELS[-1:].expand(4)))
    flags = torch.arange(105) < 101
    assert counted(*padded, counted=flags) == counted()
    assert counted(*padded) != counted()


def test_an_unreadable_video_counts_as_wrong() -> None:
    right = torch.eye(4), torch.arange(4)
    assert counted(*right) == (1.0, 1.0, 4)
    assert counted(*right, ok=torch.tensor([True, False, True, True])) == (0.75, 0.75, 4)


def test_ties_and_what_is_not_finite() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [float("nan"), 0.0, 1.0], [0.0, float("nan"), 1.0]])
    assert label_ranks(scores, torch.tensor([0, 2, 0, 2])).tolist() == [0, 2, 8, 8]


def test_nothing_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no samples"):
        AccuracyCounter().merged()
