"""The table of metric writers: a new one is a file beside this one, and a row here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mvd_ds.files import ConfigError, did_you_mean
from mvd_ds.training.reporting.writers.json_lines import JsonLines
from mvd_ds.training.reporting.writers.mlflow import MlFlow
from mvd_ds.training.reporting.writers.tensorboard import TensorBoard
from mvd_ds.training.reporting.writers.wandb import WeightsAndBiases
from mvd_ds.training.reporting.writers.writer import Writer, WrittenRun


class Row(NamedTuple):
    """One kind of writer."""

    start: Callable[[WrittenRun], Writer]
    """Makes a writer."""
    package: str | None = None
    """Package that it needs and that is not among the requirements."""


WRITERS = {
    "jsonl": Row(JsonLines),
    "tensorboard": Row(TensorBoard),
    "wandb": Row(WeightsAndBiases, "wandb"),
    "mlflow": Row(MlFlow, "mlflow"),
}
ALWAYS = "jsonl"
"""The writer that every run has: reports are made from its file."""


def require_writers(names: Sequence[str]) -> None:
    """Check the setting ``run.writers``.

    Raises:
        ConfigError: in one line, if there is no such writer, or its package is not installed.
    """
    for name in names:
        if name not in WRITERS:
            hint = did_you_mean(name, WRITERS, f"there are {', '.join(WRITERS)}")
            raise ConfigError(f"run.writers '{name}': there is no such writer; {hint}")
        package = WRITERS[name].package
        if package is not None and package not in sys.modules and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"run.writers {name}: the package {package} is not installed; pip install {package}, or leave {name} out"
            )
