"""The type of the settings that name a loss: one loss, or a mixture of several by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from mvd_ds.files import did_you_mean

LossName = Literal["smooth_l1", "l1", "l2", "cosine", "angle"]
"""Losses between a prediction and its target."""
LOSS_NAMES: tuple[str, ...] = get_args(LossName)


def _checked(value: Any) -> Any:
    """Return ``value``; a fault is told once here, where a union of types would tell it once for each of them."""
    if not isinstance(value, str | dict):
        raise ValueError(
            f"is the name of a loss ({', '.join(LOSS_NAMES)}), or weights by name as {{cosine: 0.9, smooth_l1: 0.1}}"
        )
    mixture = value if isinstance(value, dict) else {value: 1.0}
    for name, weight in mixture.items():
        if name not in LOSS_NAMES:
            raise ValueError(
                f"loss '{name}' is not known; {did_you_mean(name, LOSS_NAMES, 'losses are ' + ', '.join(LOSS_NAMES))}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(f"weight {weight!r} of {name} is not a number of 0 or more")
    if not any(mixture.values()):
        raise ValueError("a mixture needs a loss with a weight above 0; to leave a target out of the total, set its weight to 0")
    return value


Loss = Annotated[LossName | dict[LossName, Annotated[float, Field(ge=0.0)]], BeforeValidator(_checked)]
"""A loss by name, or a mixture by weight: ``{cosine: 0.9, smooth_l1: 0.1}``."""
LOG_VARIANCES = "balance.log_variances"
"""Name of the learned log variances among the outputs of a student; with its dot it can be no target's."""
LossMixture = str | Mapping[Any, float]
"""The same for functions: a name, or weights by name."""


def loss_parts(loss: LossMixture) -> dict[str, float]:
    """Return the losses of a mixture with their weights, those of weight 0 left out; a name alone has weight 1."""
    return {loss: 1.0} if isinstance(loss, str) else {name: float(weight) for name, weight in loss.items() if weight}


def loss_title(loss: LossMixture) -> str:
    """Return a loss in words: ``smooth_l1``, or ``0.9 cosine + 0.1 smooth_l1``."""
    parts = loss_parts(loss)
    if isinstance(loss, str):
        return loss
    return " + ".join(name if weight == 1.0 else f"{weight:g} {name}" for name, weight in parts.items())
