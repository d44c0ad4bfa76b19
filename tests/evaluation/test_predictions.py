"""What is counted from predictions, against scikit-learn and by hand; views are averaged after their softmax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import Tensor

from mvd_ds.data.views import rank_groups
from mvd_ds.evaluation.predictions import (
    Predictions,
    calibrate,
    confused_pairs,
    merge,
    predict,
    set_aside,
    summarise,
    view_probabilities,
)

CLASSES, COUNT, VIEWS = 7, 41, 6
RNG = np.random.default_rng(0)
CLIPS = torch.from_numpy(RNG.integers(0, 256, (COUNT, VIEWS, 3, 2, 4, 4), dtype=np.uint8))
LABELS = RNG.integers(0, CLASSES, COUNT)
WEIGHTS = torch.from_numpy(RNG.normal(size=(96, CLASSES))).float() / 300


class Batch(NamedTuple):
    clips: Tensor
    videos: Tensor
    ok: Tensor


def forward(clips: Tensor) -> Tensor:
    return clips.flatten(1).float() @ WEIGHTS


def predictions(rank: int = 0, world: int = 1, bad: tuple[int, ...] = (), size: int = 4, chunk: int = 5) -> Predictions:
    batches = (
        Batch(CLIPS[list(group)], torch.tensor(list(group)), torch.tensor([video not in bad for video in group]))
        for group in rank_groups(COUNT, size, rank, world)
    )
    return predict(forward, batches, CLASSES, chunk)


def test_views_are_the_mean_of_the_softmax_of_single_views() -> None:
    single = [forward(CLIPS[:, view]).softmax(1) for view in range(VIEWS)]
    found = view_probabilities(forward, CLIPS, 5)
    torch.testing.assert_close(found, torch.stack(single).mean(0))
    of_mean_logits = torch.stack([forward(CLIPS[:, view]) for view in range(VIEWS)]).mean(0).softmax(1)
    assert not torch.allclose(found, of_mean_logits, atol=1e-3)
    torch.testing.assert_close(found.sum(1), torch.ones(COUNT))


@pytest.mark.parametrize("world", [2, 3, 20])
def test_any_number_of_processes_says_the_same_to_the_last_bit(world: int) -> None:
    alone = predictions(bad=(3, 40))
    together = merge([predictions(rank, world, bad=(3, 40)) for rank in range(world)])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert summarise(alone, LABELS, 15) == summarise(together, LABELS, 15)


def test_a_video_that_came_twice_is_there_once() -> None:
    found = predictions()
    again = Predictions(found.videos[-3:], found.probabilities[-3:], found.ok[-3:])
    assert summarise(merge([again, found]), LABELS, 15)["samples"] == COUNT


def test_figures_are_those_of_scikit_learn() -> None:
    found, figures = predictions(), summarise(predictions(), LABELS, 15)
    guesses = found.probabilities.argmax(1)
    for top in (1, 5):
        expected = top_k_accuracy_score(LABELS, found.probabilities, k=top, labels=range(CLASSES))
        assert figures[f"top{top}"] == pytest.approx(expected)
    assert figures["mean_per_class"] == pytest.approx(balanced_accuracy_score(LABELS, guesses))
    assert figures["confusion"] == confusion_matrix(LABELS, guesses, labels=range(CLASSES)).tolist()
    assert [row["samples"] for row in figures["per_class"]] == np.bincount(LABELS, minlength=CLASSES).tolist()


def test_an_unreadable_video_counts_as_wrong_everywhere() -> None:
    right = int(np.flatnonzero(predictions().probabilities.argmax(1) == LABELS)[0])
    whole, less = (summarise(predictions(bad=bad), LABELS, 15) for bad in ((), (right,)))
    assert less["samples"] == whole["samples"] == COUNT and less["unreadable"] == 1
    assert less["top1"] == pytest.approx(whole["top1"] - 1 / COUNT)
    true = LABELS[right]
    assert less["per_class"][true]["top1"] < whole["per_class"][true]["top1"]
    assert sum(map(sum, less["confusion"])) == COUNT - 1


def test_what_is_not_finite_counts_as_wrong_everywhere() -> None:
    found, unread = predictions(), predictions(bad=(3,))
    found.probabilities[3, 2] = np.nan
    assert set_aside(unread)[1] == []
    aside, videos = set_aside(found)
    assert videos == [3] and summarise(aside, LABELS, 15) == summarise(unread, LABELS, 15)


def test_a_class_without_a_sample_has_no_accuracy() -> None:
    found = predictions()
    figures = summarise(found, np.zeros(COUNT, np.int64), 15)
    assert [row["top1"] for row in figures["per_class"][1:]] == [None] * (CLASSES - 1)
    assert figures["mean_per_class"] == figures["top1"]


def test_calibration_by_hand() -> None:
    confidence = np.array([0.95, 0.85, 0.55, 0.6, 1.0, 0.5])
    right = np.array([True, False, True, False, True, True])
    error, rows = calibrate(confidence, right, 2)
    # (0, 0.5]: one sample, 0.5 and right. (0.5, 1]: five, 3 right, mean confidence 0.79.
    assert [row["samples"] for row in rows] == [1, 5]
    assert error == pytest.approx((1 * 0.5 + 5 * abs(0.6 - 0.79)) / 6)
    perfect = np.repeat([0.25, 0.75], 4)
    assert calibrate(perfect, np.array([1, 0, 0, 0, 1, 1, 1, 0], bool), 10)[0] == pytest.approx(0)
    assert calibrate(np.empty(0), np.empty(0, bool), 10) == (None, [])


def test_confused_pairs_are_the_largest_cells_off_the_diagonal() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    guesses, sure = np.array([1, 1, 0, 2, 1, 1]), np.array([0.6, 0.9, 0.8, 0.7, 0.9, 0.8])
    probabilities = np.full((6, 3), 0.01, np.float32)
    probabilities[np.arange(6), guesses] = sure
    found = Predictions(np.arange(10, 16), probabilities, np.array([True, True, True, True, True, False]))
    first, second = confused_pairs(found, labels, 10, 1)
    assert first == {"true": 0, "predicted": 1, "videos": 2, "share": pytest.approx(2 / 3), "examples": [11]}
    assert (second["true"], second["predicted"], second["examples"]) == (1, 2, [13])
    assert len(confused_pairs(found, labels, 1, 1)) == 1
