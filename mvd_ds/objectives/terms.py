"""The loss of a step: one term per predicted target, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mvd_ds.config import LossMixture
from mvd_ds.objectives.losses import mixed_loss, per_sample


class Judge(Protocol):
    """Whatever compares a prediction with its target: a ``Target``, or a ``Term`` alone."""

    @property
    def loss(self) -> LossMixture:
        """Name of the loss in ``LOSSES``, or weights of several by name."""

    @property
    def weight(self) -> float:
        """Factor of the loss in the total."""

    def compare(self, prediction: Tensor, target: Tensor, places: Any = None) -> Tensor:
        """Return the loss, a scalar in fp32."""

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,)."""


class Term(NamedTuple):
    """A loss (name in ``LOSSES``, or weights by name) and its factor in the total, for targets that are tensors alone."""

    loss: LossMixture
    weight: float

    def compare(self, prediction: Tensor, target: Tensor, places: Any = None) -> Tensor:
        """Return the loss, a scalar in fp32, between a prediction and a target of one shape."""
        return mixed_loss(self.loss, prediction, target)

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), between a prediction and a target of one shape."""
        return per_sample(self.loss, prediction, target)


class LossTerms(NamedTuple):
    """The loss that a step minimises, and the numbers that it reports."""

    total: Tensor
    """Scalar fp32: sum of weight * term; the only one with a graph behind it."""
    terms: dict[str, Tensor]
    """Scalar fp32 per target, without its weight, still on the device."""
    measurements: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    """Scalar fp32 by metric name, of whatever else was measured, still on the device."""


def combine(
    predictions: dict[str, Tensor], targets: dict[str, Tensor], terms: Mapping[str, Judge], places: Any = None
) -> LossTerms:
    """Return the weighted sum of one loss per target. Source: MVD, w_image * loss + w_video * loss, both weights 1.

    Args:
        predictions: per target (B*K, M, D), any float type; D may differ from target to target.
        targets: the same names, in the shape that each target's comparison takes.
        terms: what compares them, by the same names; at least one.
        places: places of the tokens, a ``targets.Places``, for comparisons that need them.

    Raises:
        ValueError: if the three do not have the same names, or a prediction and its target do not fit.
    """
    if not terms or predictions.keys() != terms.keys() or targets.keys() != terms.keys():
        raise ValueError(
            f"predictions {sorted(predictions)}, targets {sorted(targets)} and loss terms {sorted(terms)} must be the same names"
        )
    losses = {name: term.compare(predictions[name], targets[name], places) for name, term in terms.items()}
    # A weight of 0 stays in the sum: under ZeRO-3 every decoder must take part in every backward pass.
    total = torch.stack([terms[name].weight * loss for name, loss in losses.items()]).sum()
    return LossTerms(total, {name: loss.detach() for name, loss in losses.items()})
