"""Figures of answers that are not one class: average precision of several classes, and distance and order of real numbers.

Every video counts once, whatever the number of processes. Intervals of 95 % resample videos with replacement.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

#: Resamples whose weights are in memory at once.
_AT_ONCE = 32


class Figure(NamedTuple):
    """A figure with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> list[float | None]:
    """Return the average precision of each class, None where no video has it; videos of equal score share one threshold.

    Args:
        scores: float (S, classes), larger is surer.
        truth: (S, classes), 1 where a video has the class.
    """
    has = truth.sum(axis=0) > 0
    return [
        float(average_precision_score(truth[:, number], scores[:, number])) if has[number] else None
        for number in range(scores.shape[1])
    ]


def tied_classes(scores: np.ndarray, truth: np.ndarray) -> int:
    """Return in how many classes a video that has it and one that has it not have the same score."""
    count = 0
    for column, wanted in zip(scores.T, truth.T, strict=True):
        positive = column[wanted == 1]
        count += bool(np.isin(positive, column[wanted == 0]).any())
    return count


def mean_average_precision(scores: np.ndarray, truth: np.ndarray, draws: int, seed: int = 0) -> Figure:
    """Return the mean of ``average_precisions`` over the classes that a video has, with its interval.

    A resample without a video of a class leaves that class out of its mean.
    """
    known = [value for value in average_precisions(scores, truth) if value is not None]
    if not known:
        return Figure(None)
    rng = np.random.default_rng(seed)
    means = []
    for first in range(0, draws, _AT_ONCE):
        count = min(_AT_ONCE, draws - first)
        weights = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=count).astype(np.float64)
        found = np.stack([weighted_precision(s, t, weights) for s, t in zip(scores.T, truth.T, strict=True)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any positive
            means.append(np.nanmean(found, axis=0))
    low, high = np.nanquantile(np.concatenate(means), (0.025, 0.975))
    return Figure(sum(known) / len(known), float(low), float(high))


def weighted_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision of one class under each row of weights, float64 (draws,); NaN where no positive weighs.

    It is what scikit-learn computes with ``sample_weight``, for all rows from one order of the scores.

    Args:
        scores: (S,).
        truth: (S,), 1 or 0.
        weights: (draws, S), at least 0.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    seen = np.cumsum(weights[:, order], axis=1)[:, ends]
    hits = np.cumsum(weights[:, order] * truth[order], axis=1)[:, ends]
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    total = hits[:, -1]
    gained = np.diff(hits, axis=1, prepend=0.0)
    return np.divide((precision * gained).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def mean_absolute_error(found: np.ndarray, wanted: np.ndarray) -> float | None:
    """Return the mean distance of float (S,) answers; None without any."""
    return float(np.abs(found - wanted).mean()) if len(found) else None


def spearman(found: np.ndarray, wanted: np.ndarray) -> float | None:
    """Return Spearman's correlation, of ranks where equal numbers share the mean of theirs; None where one side is constant."""
    a, b = _ranks(found), _ranks(wanted)
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 0 else None


def r_squared(found: np.ndarray, wanted: np.ndarray) -> float | None:
    """Return 1 - squared errors / squared distances from the mean of ``wanted``; None where that is constant."""
    around = float(((wanted - wanted.mean()) ** 2).sum()) if len(wanted) else 0.0
    return 1 - float(((found - wanted) ** 2).sum()) / around if around > 0 else None


REAL_FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "mae": mean_absolute_error,
    "spearman": spearman,
    "r2": r_squared,
}
"""Figures of real numbers by name: (answers float64 (S,), labels float64 (S,)) -> the figure."""


def real_figures(found: np.ndarray, wanted: np.ndarray, draws: int, seed: int = 0) -> dict[str, Figure]:
    """Return ``REAL_FIGURES`` with their intervals; resamples in which one is not defined are left out of its interval."""
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in REAL_FIGURES}
    for _ in range(draws if len(found) else 0):
        rows = rng.integers(len(found), size=len(found))
        for name, figure in REAL_FIGURES.items():
            if (value := figure(found[rows], wanted[rows])) is not None:
                values[name].append(value)
    return {name: _with_interval(figure(found, wanted), values[name]) for name, figure in REAL_FIGURES.items()}


def _with_interval(value: float | None, drawn: list[float]) -> Figure:
    if value is None or not drawn:
        return Figure(value)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(value, float(low), float(high))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, equal values with the mean of theirs, float64 (S,)."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places].astype(np.float64)
