"""The centres of a teacher's logits over prototypes, and the temperature of its assignments, which follow the run."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mvd_ds.config import PrototypeSettings
from mvd_ds.objectives.moving_statistics import Statistics

#: Share of a prototype that counts as this at least, so that one that nothing is assigned to is drawn in by a finite step.
LEAST_SHARE = 1e-6


class Centres(Statistics):
    """One number for each prototype, for class tokens and for patches, that is taken off the teacher's logits.

    ema: ``centre = m * centre + (1 - m) * mean of the logits of a step``. sinkhorn: ``centre += (1 - m) * temperature *
    log(outputs * mean assignment of a step)``; with m = 0 on one batch, n steps are n iterations of Sinkhorn and Knopp, and the
    fixed point is that all prototypes get as much. Sums are those of a whole step over all ranks.

    Args:
        settings: of the head.
    """

    moves: ClassVar[bool] = True
    centre: Tensor
    steps: Tensor

    def __init__(self, settings: PrototypeSettings) -> None:
        super().__init__(2 * (settings.outputs + 1))
        self.settings = settings
        self.register_buffer("centre", torch.zeros(2, settings.outputs))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> Tensor:
        """Return what the teacher's logits are divided by at this step, a scalar in fp32."""
        first, last = self.settings.teacher_temperature
        if not self.settings.warmup_steps:
            return torch.full_like(self.centre[0, 0], last)
        return first + (last - first) * (self.steps / self.settings.warmup_steps).clamp(max=1.0)

    def assign(self, logits: Tensor, row: int) -> Tensor:
        """Return assignments fp32 (..., outputs) of logits (..., outputs) of patches (row 0) or class tokens (row 1)."""
        return ((logits.float() - self.centre[row]) / self.temperature).softmax(dim=-1)

    @torch.no_grad()
    def observe(self, logits: Tensor, assignments: Tensor) -> None:
        """Collect from a micro batch: (B, P + 1, outputs), patches, then the class token."""
        source = (logits if self.settings.centring == "ema" else assignments).double()
        parts = (source[:, :-1].flatten(0, 1), source[:, -1])
        self.sums += torch.cat([torch.cat((part.new_full((1,), len(part)), part.sum(dim=0))) for part in parts])

    def move(self, sums: Tensor, progress: float) -> None:
        """Move the centres, and count the step."""
        counts, totals = sums.view(2, -1).split((1, self.settings.outputs), dim=1)
        mean, own = totals / counts.clamp_min(1.0), 1 - self.settings.centre_momentum
        if self.settings.centring == "ema":
            moved = self.centre.double() + own * (mean - self.centre.double())
        else:
            shares = (self.settings.outputs * mean).clamp_min(LEAST_SHARE)
            moved = self.centre.double() + own * self.temperature.double() * shares.log()
        self.centre.copy_(torch.where(counts > 0, moved, self.centre.double()))
        self.steps += 1

    def summary(self) -> dict[str, Tensor]:
        """Return the temperature, and how far centres are from one another: their norm without their mean."""
        spread = self.centre - self.centre.mean(dim=1, keepdim=True)
        norms = spread.norm(dim=1) / math.sqrt(self.settings.outputs)
        return {"temperature": self.temperature, "centre_norm_patch": norms[0], "centre_norm_class": norms[1]}
