"""The loss of a step: one term per predicted target, and their weighted sum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvd_ds.objectives.losses import LOSSES


class Term(NamedTuple):
    """How one target counts: the name of its loss in ``LOSSES``, and its factor in the total."""

    loss: str
    weight: float


class LossTerms(NamedTuple):
    """What a step minimises and what it reports."""

    total: Tensor
    """Scalar fp32: sum of weight * term; the only one with a graph behind it."""
    terms: dict[str, Tensor]
    """Scalar fp32 per target, without its weight, still on the device."""
    measurements: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    """Scalar fp32 by metric name, of whatever else was measured, still on the device."""


def combine(predictions: dict[str, Tensor], targets: dict[str, Tensor], terms: dict[str, Term]) -> LossTerms:
    """The weighted sum of one loss per target. Source: MVD, w_image * loss + w_video * loss, both weights 1.

    Args:
        predictions: per target (B*K, M, D), any float type; D may differ from target to target.
        targets: the same names and shapes.
        terms: the same names, at least one.

    Raises:
        ValueError: if the three do not have the same names, or a prediction and its target differ in shape.
    """
    if not terms or predictions.keys() != terms.keys() or targets.keys() != terms.keys():
        raise ValueError(
            f"predictions {sorted(predictions)}, targets {sorted(targets)} and loss terms {sorted(terms)} must be the same names"
        )
    losses = {name: LOSSES[term.loss](predictions[name], targets[name]) for name, term in terms.items()}
    # A weight of 0 stays in the sum: under ZeRO-3 every decoder must take part in every backward pass.
    total = torch.stack([terms[name].weight * loss for name, loss in losses.items()]).sum()
    return LossTerms(total, {name: loss.detach() for name, loss in losses.items()})
