"""Scores of dense read-outs: R2 and mean absolute error, or accuracy and intersection over union, from sums for each video.

What is kept of a video adds up to that of all of them: of values, by channel, their number, sum, sum of squares, squared and
absolute errors, (5, K); of K classes, the number of places by (true, predicted), (K, K).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

#: Resamples that are weighed at once.
AT_ONCE = 100


class DenseScore(NamedTuple):
    """The result of a read-out on held-out videos."""

    score: float
    """Values: R2, mean over channels; classes: share of places that are classified rightly."""
    low: float
    """Lower end of its 95 % bootstrap interval over seeds and videos."""
    high: float
    second: float
    """Values: mean absolute error, mean over channels; classes: mean intersection over union of those that are there."""
    per_channel: tuple[float, ...]
    """Values: R2 of each channel; classes: intersection over union of each class, NaN of one that is not there."""
    places: int
    """Held-out places that were compared."""


def video_sums(found: Tensor, wanted: Tensor, classes: int | None) -> np.ndarray:
    """Return what is kept of a video.

    Args:
        found: predictions (n, K) at the places where the target is known.
        wanted: the target there, (n, K), indicators for classes.
        classes: number of classes; None: values.
    """
    ours, theirs = found.double().cpu().numpy(), wanted.double().cpu().numpy()
    if classes is None:
        count = np.full(theirs.shape[1], float(len(theirs)))
        errors = ours - theirs
        return np.stack((count, theirs.sum(0), (theirs**2).sum(0), (errors**2).sum(0), abs(errors).sum(0)))
    pairs = np.zeros((classes, classes))
    np.add.at(pairs, (theirs.argmax(1), ours.argmax(1)), 1)
    return pairs


def measure(sums: np.ndarray, is_classes: bool, draws: int) -> DenseScore:
    """Return the score of the sums (seeds, videos, ...) of a read-out, with its interval."""
    total = sums.mean(0).sum(0)
    each = _scores(total[None], is_classes)
    ends = np.quantile(_resampled(sums, is_classes, draws), (0.025, 0.975))
    if is_classes:
        union = total.sum(0) + total.sum(1) - np.diag(total)
        channels = np.where(total.sum(1) > 0, np.diag(total) / np.maximum(union, 1e-12), np.nan)
        second, places = float(np.nanmean(channels)), total.sum()
    else:
        channels, second, places = _r2(total), float((total[4] / np.maximum(total[0], 1e-12)).mean()), total[0, 0]
    return DenseScore(float(each[0]), float(ends[0]), float(ends[1]), second, tuple(channels.tolist()), round(float(places)))


def per_seed(sums: np.ndarray, is_classes: bool) -> tuple[float, ...]:
    """Return the score of every seed of sums (seeds, videos, ...)."""
    return tuple(_scores(sums.sum(1), is_classes).tolist())


def difference(a: np.ndarray, b: np.ndarray, is_classes: bool, draws: int) -> tuple[float, float, float]:
    """Return by how much the score of sums ``a`` is above that of ``b`` on the same seeds and videos, and its 95 % interval."""
    gain = [float(_scores(sums.mean(0).sum(0)[None], is_classes)[0]) for sums in (a, b)]
    resampled = _resampled(a, is_classes, draws) - _resampled(b, is_classes, draws)  # of the same draws
    low, high = np.quantile(resampled, (0.025, 0.975))
    return gain[0] - gain[1], float(low), float(high)


def guessed(sums: np.ndarray) -> float:
    """Return the share of places of the most frequent class, from sums (seeds, videos, K, K)."""
    counts = sums[0].sum((0, 2))
    return float(counts.max() / counts.sum())


def _resampled(sums: np.ndarray, is_classes: bool, draws: int) -> np.ndarray:
    """Return the scores (draws,) of seeds and videos drawn with replacement, always the same ones."""
    seeds, videos = sums.shape[:2]
    generator = np.random.default_rng(0)
    found = []
    for first in range(0, draws, AT_ONCE):
        count = min(AT_ONCE, draws - first)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
        of_videos = generator.multinomial(videos, np.full(videos, 1 / videos), size=count).astype(np.float64)
        drawn = (of_videos @ sums.swapaxes(0, 1).reshape(videos, -1)).reshape(count, seeds, -1)
        found.append(_scores(np.einsum("ds,dsf->df", of_seeds, drawn).reshape(count, *sums.shape[2:]), is_classes))
    return np.concatenate(found)


def _scores(totals: np.ndarray, is_classes: bool) -> np.ndarray:
    """Return the scores (n,) of sums over videos (n, ...)."""
    if is_classes:
        return np.trace(totals, axis1=1, axis2=2) / np.maximum(totals.sum((1, 2)), 1e-12)
    return np.stack([_r2(total).mean() for total in totals])


def _r2(total: np.ndarray) -> np.ndarray:
    """Return R2 by channel."""
    count, sums, squares, errors = total[:4]
    return 1 - errors / np.maximum(squares - sums**2 / np.maximum(count, 1e-12), 1e-12)
