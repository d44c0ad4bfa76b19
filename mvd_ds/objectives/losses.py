"""Losses between a prediction and its target: by name, or mixtures of several by weight.

Each takes ``(prediction, target)`` of one shape (..., D) and any float type, computes in fp32, and returns a scalar.
The target is a constant: no gradient reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import LossMixture, loss_parts

LossFunction = Callable[[Tensor, Tensor], Tensor]


def _pair(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in fp32, the target cut off from autograd.

    Raises:
        ValueError: if the shapes differ; torch would broadcast them and give a wrong number.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    return prediction.float(), target.detach().float()


def smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all elements of d**2 / 2 where |d| < 1, else |d| - 1/2. Source: MVD, beta 1."""
    return functional.smooth_l1_loss(*_pair(prediction, target), beta=1.0)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all elements of |d|."""
    return functional.l1_loss(*_pair(prediction, target))


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all elements of d**2. Source: VideoMAE and MAE, on pixels."""
    return functional.mse_loss(*_pair(prediction, target))


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all tokens of 1 - cos(prediction, target) along D, between 0 and 2."""
    return (1.0 - functional.cosine_similarity(*_pair(prediction, target), dim=-1, eps=1e-8)).mean()


def squared_angle(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared angle in rad between vectors (..., D), fp32 (...,), with a finite gradient at 0 and at pi.

    It is 2 atan2(|u - v|, |u + v|) of the unit vectors; the arc cosine would lose half of the digits of a small angle.
    """
    u, v = (functional.normalize(vector.float(), dim=-1) for vector in (first, second))
    apart, together = ((u + sign * v).square().sum(dim=-1).clamp_min(1e-12).sqrt() for sign in (-1, 1))
    return (2 * torch.atan2(apart, together)).square()


def angle(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all tokens of the squared angle between prediction and target, in rad. Source: C-RADIOv4."""
    return squared_angle(*_pair(prediction, target)).mean()


LOSSES: dict[str, LossFunction] = {"smooth_l1": smooth_l1, "l1": l1, "l2": l2, "cosine": cosine, "angle": angle}
"""Every loss that the settings ``loss`` of teachers, targets and pixels may name, alone or in a mixture."""


def mixed_loss(loss: LossMixture, prediction: Tensor, target: Tensor) -> Tensor:
    """Return the loss of this name, or the sum of a mixture's losses by their weights, a scalar in fp32.

    Args:
        loss: name in ``LOSSES``, or weights by name. Source: UNIC 0.5 cosine + 0.5 smooth L1, Theia 0.9 and 0.1.
        prediction: (..., D), any float type.
        target: of the same shape.
    """
    if isinstance(loss, str):
        return LOSSES[loss](prediction, target)
    return torch.stack([weight * LOSSES[name](prediction, target) for name, weight in loss_parts(loss).items()]).sum()


def per_sample(loss: LossMixture, prediction: Tensor, target: Tensor) -> Tensor:
    """Return fp32 (B,): the loss for every sample of (B, ..., D) with a graph behind it; their mean is the loss of all."""
    rows: Tensor = torch.vmap(lambda one, other: mixed_loss(loss, one, other))(prediction, target)
    return rows


def per_token(loss: LossMixture, prediction: Tensor, target: Tensor) -> Tensor:
    """Return fp32 (...,): the loss for every token of (..., D); their mean is the loss of all."""
    return per_sample(loss, prediction.flatten(0, -2), target.flatten(0, -2)).unflatten(0, prediction.shape[:-1])
