"""The spread of a teacher's summaries on the unit sphere, and angles in units of it.

Source: C-RADIOv4 (arXiv 2601.17237), balanced summary loss: angle(x, y)^2 / mean of angle(y, mean direction)^2. Differs: the
expectations are running ones, over all ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

_TINY = 1e-12
"""Floor of squared chords, below which the angle has no gradient; 1e-6 rad."""


def squared_angle(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared angle in rad between vectors (..., D), fp32 (...,), with a finite gradient at 0 and at pi.

    It is 2 atan2(|u - v|, |u + v|) of the unit vectors; the arc cosine would lose half of the digits of a small angle.
    """
    u, v = (functional.normalize(vector.float(), dim=-1) for vector in (first, second))
    apart, together = ((u + sign * v).square().sum(dim=-1).clamp_min(_TINY).sqrt() for sign in (-1, 1))
    return (2 * torch.atan2(apart, together)).square()


class AngularDispersion(nn.Module):
    """Running mean of unit vectors, whose direction is the mean direction, and running mean of their squared angles to it.

    A step's vectors are observed micro batch by micro batch on each rank, and change nothing until ``update``, which adds up
    what all ranks have seen: whatever the layout, the statistics are the same. The first update has no direction to measure
    angles to, and takes the mean squared chord 2 (1 - length of the mean unit vector), to which they come close where small.

    Args:
        width: D.
        momentum: share of a step's own statistics in the running ones, after the first update.
    """

    direction: Tensor
    dispersion: Tensor
    updates: Tensor
    sums: Tensor

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("direction", torch.zeros(width))
        self.register_buffer("dispersion", torch.ones(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # Vectors, squared angles and their number in this step; empty between steps, when states are saved.
        self.register_buffer("sums", torch.zeros(width + 2, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def observe(self, vectors: Tensor) -> None:
        """Add (B, D) to what this step has seen."""
        unit = functional.normalize(vectors.double(), dim=-1)
        angles = squared_angle(unit, self.direction.expand_as(unit)).double()
        self.sums += torch.cat((unit.sum(dim=0), angles.sum().view(1), angles.new_full((1,), len(unit))))

    @torch.no_grad()
    def update(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Move the statistics by what all ranks have seen in this step. Collective.

        Args:
            reduce: returns the sum of a tensor over all ranks.
        """
        totals = reduce(self.sums)
        mean, angle = (totals[:-1] / totals[-1].clamp_min(1.0)).split((len(self.direction), 1))
        is_first, is_empty = self.updates == 0, totals[-1] == 0
        share = torch.where(is_first, 1.0, self.momentum) * ~is_empty
        spread = torch.where(is_first, 2 * (1 - mean.norm()), angle.squeeze())
        self.direction.lerp_(mean.float(), share)
        self.dispersion.lerp_(spread.float(), share).clamp_min_(_TINY)
        self.updates += ~is_empty
        self.sums.zero_()
