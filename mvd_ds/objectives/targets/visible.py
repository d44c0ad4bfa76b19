"""The loss on visible tokens: a visible token counts less the farther it is from what is predicted.

Source: V-JEPA 2.1 (arXiv 2603.14482), lambda * mean of (1 / sqrt(distance to the nearest masked token)) * loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvd_ds.config import Grid
from mvd_ds.objectives.losses import per_token


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


def visible_loss(loss: str, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over visible tokens of weight * loss, a scalar in fp32.

    Args:
        loss: name in ``LOSSES``.
        prediction, target: (R, V, D).
        weights: (R, V), constants.
    """
    return (weights * per_token(loss, prediction, target)).mean()
