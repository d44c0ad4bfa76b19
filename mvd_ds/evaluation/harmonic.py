"""The harmonic mean of the accuracies on base and on new classes, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mvd_ds.evaluation.probes import ConfidenceInterval


def harmonic_mean(base: float, new: float) -> float:
    """Return 2 / (1 / base + 1 / new); 0 where one of them is."""
    return 2 * base * new / (base + new) if base + new > 0 else 0.0


def harmonic_interval(base: np.ndarray, new: np.ndarray, draws: int, seed: int = 0) -> ConfidenceInterval:
    """Return the harmonic mean of two accuracies with its 95 % bootstrap interval over seeds and clips.

    Args:
        base: bool or shares (seeds, S), what was right of base classes.
        new: the same of new classes, (seeds, S'); a seed is drawn for both together.
        draws: number of resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    parts = [part.astype(np.float32) for part in (base, new)]
    means = np.empty(draws)
    for draw in range(draws):
        rows = rng.integers(len(base), size=len(base))
        shares = (part[rows].mean(0)[rng.integers(part.shape[1], size=part.shape[1])].mean() for part in parts)
        means[draw] = harmonic_mean(*map(float, shares))
    low, high = np.quantile(means, (0.025, 0.975))
    return ConfidenceInterval(harmonic_mean(*(float(part.mean()) for part in parts)), float(low), float(high))


def spread(parts: Sequence[Sequence[np.ndarray]], figure: Callable[..., float], draws: int, seed: int = 0) -> ConfidenceInterval:
    """Return a figure of several trainings with its 95 % bootstrap interval over trainings and the clips of each.

    Unlike ``paired_interval`` it takes trainings that are measured on clips of their own.

    Args:
        parts: shares of right answers by clip, an array (S,) for each training, of each part that the figure is made of; a
            training is drawn for all parts together.
        figure: the mean share of each part -> the figure.
        draws: number of resamples.
        seed: of the resampling.
    """
    rng, count = np.random.default_rng(seed), len(parts[0])
    found = np.empty(draws)
    for draw in range(draws):
        rows = rng.integers(count, size=count)
        found[draw] = figure(
            *(np.mean([part[row][rng.integers(len(part[row]), size=len(part[row]))].mean() for row in rows]) for part in parts)
        )
    low, high = np.quantile(found, (0.025, 0.975))
    return ConfidenceInterval(figure(*(np.mean([one.mean() for one in part]) for part in parts)), float(low), float(high))
