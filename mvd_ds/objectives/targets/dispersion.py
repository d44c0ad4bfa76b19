"""The spread of a teacher's summaries on the unit sphere, in which angles between them are measured.

Source: C-RADIOv4 (arXiv 2601.17237), balanced summary loss: angle(x, y)^2 / mean of angle(y, mean direction)^2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.objectives.losses import squared_angle
from mvd_ds.objectives.moving_statistics import Statistics


class AngularDispersion(Statistics):
    """The mean squared angle of vectors to their mean direction, over the first clips of the training order.

    A teacher is frozen, so that it is measured once: the mean direction in the first round, the angles to it in the second.

    Args:
        width: D.
    """

    rounds: ClassVar[tuple[int, ...]] = (1, 2)
    direction: Tensor
    dispersion: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width + 1)
        self.register_buffer("direction", torch.zeros(width))
        self.register_buffer("dispersion", torch.ones(()))

    @torch.no_grad()
    def observe(self, vectors: Tensor) -> None:
        """Collect from summaries (B, D) of calibration clips: their directions, then their squared angles to the mean one."""
        if self.round is None:
            return
        unit = functional.normalize(vectors.double(), dim=-1)
        if self.round == 2:
            unit = squared_angle(unit, self.direction.expand_as(unit)).double()[:, None].expand_as(unit)
        self.sums += torch.cat((unit.sum(dim=0), unit.new_full((1,), len(unit))))

    def settle(self, sums: Tensor) -> None:
        """Take the mean direction, or the mean squared angle to it."""
        means = sums[:-1] / sums[-1]
        if self.round == 1:
            self.direction.copy_(means)
        else:
            self.dispersion.copy_(means[0].clamp_min(1e-12))

    def summary(self) -> dict[str, Tensor]:
        """Return the dispersion in rad^2."""
        return {"dispersion": self.dispersion}
