"""Numbers that say what a loss means and whether features collapse. None of them carries a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mvd_ds.config import LossMixture
from mvd_ds.objectives.losses import mixed_loss


@torch.no_grad()
def mean_target_loss(target: Tensor, loss: LossMixture) -> Tensor:
    """Return the loss of always predicting the mean target: a loss is good or bad beside this number only.

    Args:
        target: (..., D); the mean is over everything but D.
        loss: name in ``LOSSES``, or weights by name.

    Returns:
        Scalar fp32 on the target's device.
    """
    tokens = target.float().flatten(0, -2)
    return mixed_loss(loss, tokens.mean(dim=0, keepdim=True).expand_as(tokens), tokens)


@torch.no_grad()
def feature_variance(features: Tensor) -> Tensor:
    """Return the biased variance over all tokens of each feature, averaged over the features; 0 is complete collapse.

    Args:
        features: (..., D).

    Returns:
        Scalar fp32.
    """
    return features.float().flatten(0, -2).var(dim=0, correction=0).mean()


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """Return exp of the entropy of the normalised singular values of centred features. Source: Roy, Vetterli, 2007.

    Args:
        features: (S, D), S samples.

    Returns:
        Scalar fp32 between 1 (one direction) and min(S - 1, D) (all alike); 0 where all samples are equal, NaN where a
        feature is not finite.
    """
    x = features.float()
    finite = torch.isfinite(x).all()
    x = torch.where(finite, x, torch.zeros_like(x))  # LAPACK raises on NaN, and a diagnostic must not end a run
    singular = torch.linalg.svdvals(x - x.mean(dim=0, keepdim=True))
    # Equal samples centre to rounding noise, whose spectrum is flat: without this floor, collapse would show as full rank.
    noise = max(x.shape) * torch.finfo(torch.float32).eps * x.abs().amax()
    singular = torch.where(singular > noise, singular, torch.zeros_like(singular))
    total = singular.sum()
    shares = singular / total.clamp_min(torch.finfo(torch.float32).tiny)
    rank = torch.exp(-torch.special.xlogy(shares, shares).sum())
    rank = torch.where(total > 0, rank, torch.zeros_like(rank))
    return torch.where(finite, rank, torch.full_like(rank, float("nan")))
