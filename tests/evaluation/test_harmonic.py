"""The harmonic mean of two accuracies, and intervals over trainings that have clips of their own."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.evaluation.harmonic import harmonic_interval, harmonic_mean, spread


def test_the_mean_and_its_interval() -> None:
    assert harmonic_mean(0.8, 0.4) == pytest.approx(2 / (1 / 0.8 + 1 / 0.4)) and harmonic_mean(0.0, 0.0) == 0.0
    base, new = np.zeros((3, 40), bool), np.zeros((3, 60), bool)
    base[:, :32], new[:, :30] = True, True
    found = harmonic_interval(base, new, 500)
    assert found.difference == pytest.approx(harmonic_mean(0.8, 0.5)) and found.low < found.difference < found.high
    again = spread([list(base.astype(float)), list(new.astype(float))], harmonic_mean, 500)
    assert again.difference == pytest.approx(found.difference)
    certain = harmonic_interval(np.ones((2, 5), bool), np.ones((2, 7), bool), 50)
    assert tuple(certain) == (1.0, 1.0, 1.0)


def test_trainings_of_unlike_clips_count_alike() -> None:
    parts = [[np.ones(10), np.zeros(30)]]
    found = spread(parts, float, 400)
    assert found.difference == 0.5 and (found.low, found.high) == (0.0, 1.0), "the trainings are what varies"
