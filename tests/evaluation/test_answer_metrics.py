"""Figures of several classes and of real numbers: what well-known libraries say, ties and all, and what they leave undefined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from mvd_ds.evaluation.answer_metrics import (
    average_precisions,
    mean_absolute_error,
    mean_average_precision,
    r_squared,
    real_figures,
    spearman,
    tied_classes,
    weighted_precision,
)

RNG = np.random.default_rng(0)
SCORES = RNG.integers(0, 6, (40, 4)) / 5  # many ties
TRUTH = (RNG.random((40, 4)) < 0.3).astype(np.uint8)
TRUTH[:, 3] = 0


def test_resampled_average_precision_is_that_of_the_library() -> None:
    weights = RNG.multinomial(40, np.full(40, 1 / 40), size=5).astype(float)
    for number in range(3):
        found = weighted_precision(SCORES[:, number], TRUTH[:, number], weights)
        wanted = [average_precision_score(TRUTH[:, number], SCORES[:, number], sample_weight=row) for row in weights]
        assert found == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(weighted_precision(SCORES[:, 3], TRUTH[:, 3], weights)).all()


def test_a_class_without_a_video_is_left_out_and_ties_are_counted() -> None:
    each = average_precisions(SCORES, TRUTH)
    assert each[3] is None
    whole = mean_average_precision(SCORES, TRUTH, 200)
    assert whole.value == pytest.approx(sum(value for value in each if value is not None) / 3)
    assert whole.low < whole.value < whole.high  # type: ignore[operator]
    assert tied_classes(SCORES, TRUTH) == 3
    assert tied_classes(np.array([[0.9], [0.1], [0.1]]), np.array([[1], [0], [0]])) == 0
    assert mean_average_precision(SCORES, np.zeros_like(TRUTH), 10).value is None


def test_the_order_of_the_videos_changes_nothing() -> None:
    turned = mean_average_precision(SCORES[::-1], TRUTH[::-1], 10).value
    assert turned == pytest.approx(mean_average_precision(SCORES, TRUTH, 10).value, abs=1e-12)


def test_real_numbers_are_compared_as_the_library_does() -> None:
    wanted = RNG.integers(0, 8, 50).astype(float)
    found = wanted + RNG.normal(size=50).round()
    assert spearman(found, wanted) == pytest.approx(spearmanr(found, wanted).statistic, abs=1e-12)
    assert mean_absolute_error(found, wanted) == pytest.approx(np.abs(found - wanted).mean())
    assert r_squared(np.full(50, wanted.mean()), wanted) == pytest.approx(0)
    figures = real_figures(found, wanted, 200)
    assert all(one.low < one.value < one.high for one in figures.values())  # type: ignore[operator]


def test_what_is_not_defined_is_none() -> None:
    constant = np.ones(5)
    assert spearman(constant, np.arange(5.0)) is None and r_squared(np.arange(5.0), constant) is None
    empty = np.empty(0)
    assert all(one == (None, None, None) for one in real_figures(empty, empty, 10).values())
