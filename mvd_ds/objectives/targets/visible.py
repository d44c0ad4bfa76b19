"""The loss on visible tokens: a visible token counts less the farther it is from what is predicted.

Source: V-JEPA 2.1 (arXiv 2603.14482), lambda * mean of (1 / sqrt(distance to the nearest masked token)) * loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvd_ds.config import Grid, LossMixture, TargetSettings
from mvd_ds.objectives.losses import per_token
from mvd_ds.objectives.targets.target import Places


def distance_to_masked(masked: Tensor, grid: Grid) -> Tensor:
    """Return the Euclidean distance, in tokens, of every token to the nearest masked one, exact but for the root.

    A squared distance is a sum over the axes, so its minimum is taken axis by axis: a table of N * (t + h + w) numbers for a
    sample, not one of V * M.

    Args:
        masked: (R, M) int64 token indices, M at least 1.
        grid: (t, h, w).

    Returns:
        (R, N) fp32, 0 at masked tokens.
    """
    unreached = float(sum(side**2 for side in grid))
    squared = torch.full((len(masked), math.prod(grid)), unreached, device=masked.device)
    squared = squared.scatter(1, masked, 0.0).unflatten(1, grid)
    for axis, side in enumerate(grid, start=1):
        place = torch.arange(side, device=masked.device, dtype=torch.float32)
        steps = (place[:, None] - place).square()
        squared = (squared.transpose(axis, -1).unsqueeze(-2) + steps).amin(dim=-1).transpose(axis, -1)
    return squared.flatten(1).sqrt()


def visible_weights(visible: Tensor, masked: Tensor, grid: Grid) -> Tensor:
    """Return the weights of visible tokens, 1 / sqrt(distance to the nearest masked token); 1 for a direct neighbour.

    Args:
        visible: (R, V) int64 token indices.
        masked: (R, M) int64 token indices.
        grid: (t, h, w).

    Returns:
        (R, V) fp32 between 0 and 1.
    """
    return distance_to_masked(masked, grid).gather(1, visible).rsqrt()


def warmed_up(weight: float, step: Tensor, start: int, full: int) -> Tensor:
    """Return the factor of the loss on visible tokens in a step: 0 to ``start``, then linear, ``weight`` from ``full`` on.

    Args:
        weight: lambda.
        step: number of the step, int64, on the device.
        start: first step of the ramp.
        full: its end; the same as ``start``: no ramp.
    """
    share = (step - start).float() / (full - start) if full > start else (step >= full).float()
    return weight * share.clamp(0.0, 1.0)


class VisibleLoss:
    """The loss on visible tokens beside that on masked ones.

    Args:
        settings: its factor, ramp and weights.
        grid: (t, h, w).
    """

    def __init__(self, settings: TargetSettings, grid: Grid) -> None:
        self.settings, self.grid = settings, grid

    def count(self, places: Places | None) -> int:
        """Return the number of masked tokens, which stand before the visible ones."""
        if places is None:
            raise ValueError("a loss on visible tokens needs their places")
        return places.masked.shape[2]

    def __call__(self, loss: LossMixture, prediction: Tensor, target: Tensor, places: Places | None) -> Tensor:
        """Return factor * mean over visible tokens of weight * loss for every sample, fp32 (R,).

        Args:
            loss: name in ``LOSSES``, or weights by name.
            prediction, target: (R, V, ..., D), a loss for each row of D numbers.
            places: places of the tokens, and the step.
        """
        assert places is not None
        losses = per_token(loss, prediction, target)
        losses = losses.reshape(*losses.shape[:2], -1).mean(dim=2)
        if self.settings.visible_distance:
            losses = losses * visible_weights(places.visible.flatten(0, 1), places.masked.flatten(0, 1), self.grid)
        return self._factor(places.step) * losses.mean(dim=1)

    def _factor(self, step: Tensor | None) -> Tensor | float:
        weight = self.settings.visible_weight
        return weight if step is None else warmed_up(weight, step, *self.settings.visible_ramp)
