"""Standardisation of every channel by statistics that move with the run."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mvd_ds.objectives.moving_statistics import cosine_fall, exact_sums
from mvd_ds.objectives.standardisers.standardiser import STABILISER, Standardiser

FIRST_MOMENTUM, LAST_MOMENTUM = 1.0, 0.001
"""Share of a step's statistics in the new ones, falling by half a cosine over the run. Source: UNIC."""


class RunningStandardiser(Standardiser):
    """Each channel less a running mean, over a running deviation. Source: UNIC (ECCV 2024).

    Differs: a step is standardised by the statistics before it, so that all its micro batches are standardised alike; those
    of the first step come from the calibration.
    """

    rounds: ClassVar[tuple[int, ...]] = (0,)
    moves: ClassVar[bool] = True
    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, name: str) -> None:
        super().__init__(width, name, size=1 + 2 * width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return (..., D) fp32, standardised by the statistics of the steps before."""
        return (features.float() - self.mean) / (self.deviation + STABILISER)

    def undo(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return deviation and mean of now."""
        return self.deviation + STABILISER, self.mean, None

    @torch.no_grad()
    def observe(self, features: Tensor, standardised: Tensor) -> None:
        """Collect count, mean and square of every channel: of raw features in fp64 in the calibration, and of standardised
        ones, which are near 0 and 1 and so may be summed in fp32, in training."""
        if self.round is not None:
            self.sums += exact_sums(features)
            return
        tokens = standardised.flatten(0, -2)
        variance, mean = (value.double() for value in torch.var_mean(tokens, dim=0, correction=0))
        self.sums += torch.cat((mean.new_ones(1), mean, variance + mean.square())) * len(tokens)

    def settle(self, sums: Tensor) -> None:
        """Begin with the statistics of the calibration clips."""
        mean, deviation = _moments(sums)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def move(self, sums: Tensor, progress: float) -> None:
        """Move mean and deviation towards those of the step, by the momentum of ``progress``."""
        momentum = cosine_fall(progress, FIRST_MOMENTUM, LAST_MOMENTUM)
        mean, deviation = _moments(sums)
        divisor = self.deviation.double() + STABILISER
        self.mean.copy_(self.mean.double().lerp(self.mean.double() + divisor * mean, momentum))
        self.deviation.copy_(self.deviation.double().lerp(divisor * deviation, momentum))

    def summary(self) -> dict[str, Tensor]:
        """Return the mean magnitude of the channels' means, and their mean deviation."""
        return {"mean": self.mean.abs().mean(), "deviation": self.deviation.mean()}


def _moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased deviation (D,) of (count, sums, sums of squares)."""
    count, (total, squares) = sums[0], sums[1:].chunk(2)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()
