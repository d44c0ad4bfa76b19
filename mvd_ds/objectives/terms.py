"""The loss of a step: one term per predicted target, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mvd_ds.config import LOG_VARIANCES, LossMixture
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

    def rows(self, prediction: Tensor, target: Tensor, places: Any = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,)."""


class Term(NamedTuple):
    """A loss (name in ``LOSSES``, or weights by name) and its factor in the total, for targets that are tensors alone."""

    loss: LossMixture
    weight: float

    def compare(self, prediction: Tensor, target: Tensor, places: Any = None) -> Tensor:
        """Return the loss, a scalar in fp32, between a prediction and a target of one shape."""
        return mixed_loss(self.loss, prediction, target)

    def rows(self, prediction: Tensor, target: Tensor, places: Any = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), between a prediction and a target of one shape."""
        return per_sample(self.loss, prediction, target)


class Weigher(Protocol):
    """Whatever makes one total of the losses of all targets: a ``Balance``."""

    @property
    def by_sample(self) -> bool:
        """Return whether it wants the loss of every sample (B*K,) in place of their mean."""

    def __call__(
        self, losses: dict[str, Tensor], log_variances: Tensor | None = None, uniforms: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, and measurements by metric name."""


class LossTerms(NamedTuple):
    """The loss that a step minimises, and the numbers that it reports."""

    total: Tensor
    """Scalar fp32: sum of weight * term; the only one with a graph behind it."""
    terms: dict[str, Tensor]
    """Scalar fp32 per target, without its weight, still on the device."""
    measurements: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    """Scalar fp32 by metric name, of whatever else was measured, still on the device."""


def combine(
    predictions: dict[str, Tensor],
    targets: dict[str, Tensor],
    terms: Mapping[str, Judge],
    places: Any = None,
    balance: Weigher | None = None,
    uniforms: Tensor | None = None,
    factors: Mapping[str, Tensor] | None = None,
) -> LossTerms:
    """Return the weighted sum of one loss per target. Source: MVD, w_image * loss + w_video * loss, both weights 1.

    Args:
        predictions: per target (B*K, M, D), any float type; D may differ from target to target.
        targets: the same names, in the shape that each target's comparison takes.
        terms: what compares them, by the same names; at least one.
        places: places of the tokens, a ``targets.Places``, for comparisons that need them.
        balance: makes the total; None: the sum of weight * loss.
        uniforms: (B*K, number of teachers) in [0, 1), for a balance that drops teachers.
        factors: (B*K,) by name, of the samples in the mean of a loss in which not all count once.

    Raises:
        ValueError: if the three do not have the same names, or a prediction and its target do not fit.
    """
    log_variances = predictions.get(LOG_VARIANCES)
    predictions = {name: prediction for name, prediction in predictions.items() if name != LOG_VARIANCES}
    if not terms or predictions.keys() != terms.keys() or targets.keys() != terms.keys():
        raise ValueError(
            f"predictions {sorted(predictions)}, targets {sorted(targets)} and loss terms {sorted(terms)} must be the same names"
        )
    by_sample = balance is not None and balance.by_sample
    losses = {}
    for name, term in terms.items():
        given = (predictions[name], targets[name], places)
        if factors is not None and name in factors:
            losses[name] = (term.rows(*given) * factors[name]).mean()
        else:
            losses[name] = (term.rows if by_sample else term.compare)(*given)
    if balance is None:
        # A weight of 0 stays in the sum: under ZeRO-3 every decoder must take part in every backward pass.
        return LossTerms(torch.stack([terms[name].weight * loss for name, loss in losses.items()]).sum(), _told(losses))
    total, measurements = balance(losses, log_variances, uniforms)
    return LossTerms(total, _told(losses), measurements)


def _told(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses as they are told: one scalar for each target, without a graph."""
    return {name: loss.detach().mean() for name, loss in losses.items()}


def added(*parts: LossTerms) -> LossTerms:
    """Return the losses of several objectives as one: their totals are added up."""
    terms = {name: term for part in parts for name, term in part.terms.items()}
    measurements = {name: value for part in parts for name, value in part.measurements.items()}
    return LossTerms(torch.stack([part.total for part in parts]).sum(), terms, measurements)
