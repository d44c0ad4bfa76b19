"""Losses between a prediction and its target, by name.

Each takes ``(prediction, target)`` of one shape (..., D) and any float type, computes in fp32, and returns a scalar.
The target is a constant: no gradient reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


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


LOSSES: dict[str, Loss] = {"smooth_l1": smooth_l1, "l1": l1, "l2": l2, "cosine": cosine}
"""Every value of the settings ``teachers.*.loss`` and ``pixels.loss``."""


def per_token(loss: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Return fp32 (...,): the loss of this name for every token of (..., D); their mean is the loss of all."""
    values: Tensor = torch.vmap(LOSSES[loss])(prediction.flatten(0, -2), target.flatten(0, -2))
    return values.unflatten(0, prediction.shape[:-1])
