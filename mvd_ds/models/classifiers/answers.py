"""The meaning of a head's outputs, by the task that it was trained for: probabilities of classes, or a real number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from mvd_ds.files import ConfigError, one_line


class Scale(NamedTuple):
    """Mean and standard deviation of the training labels, by which real numbers are standardised."""

    mean: float
    std: float


def _several(outputs: Tensor, scale: Scale | None) -> Tensor:
    return outputs.sigmoid()


def _one(outputs: Tensor, scale: Scale | None) -> Tensor:
    return outputs.softmax(dim=1)


def _real(outputs: Tensor, scale: Scale | None) -> Tensor:
    assert scale is not None
    return outputs * scale.std + scale.mean


ANSWERS: dict[str, Callable[[Tensor, Scale | None], Tensor]] = {"classes": _one, "multilabel": _several, "regression": _real}
"""What outputs fp32 (B, K) of a head mean, by its task; means over views are taken of these."""


def read_task(config: dict[str, Any], path: object) -> tuple[str, Scale | None]:
    """Return the task of a model's description, and the scale of its real numbers.

    Args:
        config: the description.
        path: its file, for messages.

    Raises:
        ConfigError: if the task is not known, or its scale is missing or no pair of numbers.
    """
    task = config.get("task", "classes")
    if not isinstance(task, str) or task not in ANSWERS:
        raise ConfigError(f"{path}: task '{one_line(task, 40)}' is not known; tasks are {', '.join(ANSWERS)}")
    if task != "regression":
        return task, None
    told = config.get("scale")
    values: list[Any] = [told.get(key) for key in Scale._fields] if isinstance(told, dict) else []
    if not values or not all(isinstance(value, int | float) and math.isfinite(value) for value in values) or values[1] <= 0:
        raise ConfigError(f'{path}: scale: a regression takes {{"mean": ..., "std": ...}} of its training labels, std above 0')
    return task, Scale(float(values[0]), float(values[1]))
