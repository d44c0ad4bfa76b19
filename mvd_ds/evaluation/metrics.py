"""This module counts accuracy, every sample once: over batches, padded ones too, and any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Ranks that are counted. Source: the published tables of Kinetics and Something-Something.
TOP = (1, 5)


class Accuracy(NamedTuple):
    """Shares in [0, 1] of ``samples`` samples."""

    top1: float
    top5: float
    samples: int


class AccuracyCounter:
    """A counter of samples and hits on the device of the scores that does not wait for it; counts are whole numbers."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def add(self, scores: Tensor, labels: Tensor, ok: Tensor | None = None, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            scores: (B, classes), larger is more likely; logits and probabilities are counted alike.
            labels: int64 (B,).
            ok: bool (B,), False where the video could not be read: the sample counts, and as wrong. None: all were read.
            counted: bool (B,), False for samples that only fill the last batch of a rank up. None: all count.
        """
        ranks = label_ranks(scores, labels)
        hits = torch.stack([ranks < top for top in TOP])
        if ok is not None:
            hits = hits & ok.to(hits.device)
        every = torch.ones_like(ranks, dtype=torch.bool) if counted is None else counted.to(hits.device)
        counts = torch.cat((every.sum()[None], (hits & every).sum(1)))
        self._counts = counts if self._counts is None else self._counts + counts

    def merged(self, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> Accuracy:
        """Return the accuracy over all processes, the same on each. Collective.

        Args:
            gather: a value -> that value of every process (``Cluster.gather``); by default this process is all there is.

        Raises:
            ValueError: if nothing was counted anywhere.
        """
        own = [0, 0, 0] if self._counts is None else self._counts.tolist()
        samples, *hits = (sum(column) for column in zip(*gather(own), strict=True))
        if not samples:
            raise ValueError("accuracy of no samples")
        return Accuracy(hits[0] / samples, hits[1] / samples, samples)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes are more likely than the right one, int64 (B,); 0 is a top-1 hit.

    Of equal scores the class of the smaller number goes first, so that a network that says the same of all classes is right
    for class 0 alone. A sample of which a score is not finite is wrong, whatever its label.
    """
    own = scores.gather(1, labels[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return torch.where(scores.isfinite().all(1), ahead.sum(1), scores.shape[1] + TOP[-1])
