"""The loss of captions over a whole global batch, whatever the number of ranks and of micro batches.

Every rank computes the loss of all pairs, and so the gradient by each of its own vectors, without a collective in the backward
pass. With several micro batches a step, vectors come first, without a graph; each micro batch then computes its own once more
and takes the gradient that was kept for it. Source: GradCache (arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvd_ds.config import LANGUAGE, LanguageSettings
from mvd_ds.objectives.contrastive import PairLoss, matched_share, pair_loss
from mvd_ds.objectives.terms import LossTerms

Gather = Callable[[Tensor], list[Tensor]]
"""Returns the tensor of every rank, in rank order, all of one shape. Collective."""


class Pairs(NamedTuple):
    """Vectors of clips (B, K, E) and of their captions (B, E), and the scale of their cosines."""

    clips: Tensor
    texts: Tensor
    scale: Tensor

    @classmethod
    def of(cls, outputs: dict[str, Tensor]) -> Pairs:
        """Take the vectors out of the outputs of a student, which then are its predictions alone."""
        return cls(*(outputs.pop(f"{LANGUAGE}.{name}") for name in cls._fields))


class _Share(NamedTuple):
    """The part of a loss over the whole batch that belongs to one micro batch."""

    whole: PairLoss
    rows: slice
    matched: Tensor


class CaptionLoss:
    """The loss between the clips and the captions of a step.

    Args:
        settings: the loss.
        gather: brings the vectors of all ranks together.
        rank: number of this process.
    """

    def __init__(self, settings: LanguageSettings, gather: Gather, rank: int) -> None:
        self.settings, self.gather, self.rank = settings, gather, rank
        self.kept: dict[int, _Share] = {}

    def prepare(self, batches: Iterable[Any], vectors: Callable[[Any], Pairs]) -> list[Any]:
        """Keep the share of each micro batch of a step that has several, and return the micro batches. Collective.

        Args:
            batches: those of this rank; every rank has as many.
            vectors: computes those of a micro batch, as the step will again.
        """
        batches, self.kept = list(batches), {}
        if len(batches) > 1:
            with torch.no_grad():
                found = [vectors(batch) for batch in batches]
            own = Pairs(torch.cat([pairs.clips for pairs in found]), torch.cat([pairs.texts for pairs in found]), found[0].scale)
            shares = self._shares(own, [len(pairs.texts) for pairs in found])
            self.kept = {id(batch): share for batch, share in zip(batches, shares, strict=True)}
        return batches

    def __call__(self, batch: Any, pairs: Pairs, measure: bool) -> LossTerms:
        """Return the loss of a micro batch: its value is that of the whole step, its gradient the micro batch's share.

        Collective where nothing was kept for the batch, which then is all that this rank has.
        """
        share = self.kept.pop(id(batch), None) or self._shares(pairs, [len(pairs.texts)])[0]
        whole, rows = share.whole, share.rows
        # The engine takes the mean over micro batches and ranks. Shares add up; the scale has its whole gradient in each.
        parts = len(whole.texts) / len(pairs.texts)
        surrogate = parts * ((pairs.clips * whole.clips[rows]).sum() + (pairs.texts * whole.texts[rows]).sum())
        surrogate = surrogate + (pairs.scale * whole.scale).sum()
        value = whole.loss + (surrogate - surrogate.detach())
        told = {"language/scale": pairs.scale.detach()[0].exp(), "language/matched": share.matched} if measure else {}
        return LossTerms(self.settings.weight * value, {LANGUAGE: whole.loss}, told)

    def _shares(self, own: Pairs, sizes: Sequence[int]) -> list[_Share]:
        """Return the shares of this rank's micro batches, of ``sizes`` pairs each. Collective."""
        clips, texts = (torch.cat(self.gather(part.detach())) for part in own[:2])
        whole, matched = pair_loss(self.settings.loss, clips, texts, own.scale), matched_share(clips, texts)
        ends = [self.rank * len(own.texts) + end for end in accumulate(sizes)]
        return [_Share(whole, slice(end - size, end), matched) for end, size in zip(ends, sizes, strict=True)]
