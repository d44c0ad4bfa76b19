"""Scores of dense read-outs are scikit-learn's, and intervals hold what they are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, mean_absolute_error, r2_score

from mvd_ds.evaluation.dense_scores import difference, guessed, measure, per_seed, video_sums

GENERATOR = np.random.default_rng(0)


def sums(found: np.ndarray, wanted: np.ndarray, classes: int | None) -> np.ndarray:
    """Return (1, videos, ...) of arrays (videos, n, K)."""
    pairs = zip(torch.from_numpy(found), torch.from_numpy(wanted), strict=True)
    return np.stack([video_sums(ours, theirs, classes) for ours, theirs in pairs])[None]


def test_values() -> None:
    wanted = GENERATOR.normal(size=(30, 5, 2)) + 3
    found = wanted + GENERATOR.normal(size=wanted.shape) * [0.3, 0.8]
    measured = measure(sums(found, wanted, None), False, 300)
    flat = wanted.reshape(-1, 2), found.reshape(-1, 2)
    np.testing.assert_allclose(measured.per_channel, r2_score(*flat, multioutput="raw_values"))
    assert measured.score == pytest.approx(r2_score(*flat)) and measured.second == pytest.approx(mean_absolute_error(*flat))
    assert measured.low < measured.score < measured.high and measured.places == 150


def test_classes() -> None:
    true = GENERATOR.integers(3, size=(20, 8))
    true[true == 2] = 0  # a class that is not there
    answer = np.where(GENERATOR.random(true.shape) < 0.7, true, GENERATOR.integers(3, size=true.shape))
    measured = measure(sums(np.eye(3)[answer], np.eye(3)[true], 3), True, 300)
    assert measured.score == pytest.approx(accuracy_score(true.ravel(), answer.ravel()))
    ious = jaccard_score(true.ravel(), answer.ravel(), average=None, labels=[0, 1])
    np.testing.assert_allclose(measured.per_channel[:2], ious)
    assert np.isnan(measured.per_channel[2]) and measured.second == pytest.approx(ious.mean())
    counts = np.bincount(true.ravel())
    assert guessed(sums(np.eye(3)[answer], np.eye(3)[true], 3)) == pytest.approx(counts.max() / counts.sum())


def test_a_difference_is_paired() -> None:
    """Videos differ more than read-outs do: only draws that both share tell these apart."""
    wanted = GENERATOR.normal(size=(40, 6, 1))
    hard = GENERATOR.normal(size=wanted.shape) * np.linspace(0, 1, 40)[:, None, None]
    a, b = (sums(wanted + scale * hard, wanted, None) for scale in (1.0, 1.05))
    gain, low, high = difference(a, b, False, 500)
    single = measure(a, False, 500)
    assert 0 < low < gain < high and high - low < (single.high - single.low) / 2
    assert gain == pytest.approx(single.score - measure(b, False, 500).score)
    both = np.concatenate((a, b))
    assert np.mean(per_seed(both, False)) == pytest.approx(measure(both, False, 10).score)
