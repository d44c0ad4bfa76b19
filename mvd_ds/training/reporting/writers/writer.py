"""The interface of the writers of metrics, and what each is told of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol


class WrittenRun(NamedTuple):
    """The run whose metrics are written."""

    folder: Path
    """Folder of the run."""
    metrics: Path
    """Its ``metrics.jsonl``."""
    first_step: int
    """Optimizer steps done before; what was written of later ones is out of date."""
    recipe: str
    """The resolved recipe as YAML."""


class Writer(Protocol):
    """A writer of one run's metrics, made on rank 0 from a ``WrittenRun``.

    What a kind of writer cannot show, it leaves out.
    """

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write ``values`` of optimizer step ``step`` (the first is 1)."""
        ...

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool) -> None:
        """Write the names of the ``losses`` and the settings that runs are compared by.

        Args:
            losses: names of the losses.
            settings: values by dotted name.
            relative: losses are also written as shares of what predicting the mean target costs.
        """
        ...

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Write images, as PNG files, and histograms of tensors, by name, under step ``step``."""
        ...

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Write a bar for each of ``values`` (none negative) at its place, 0 first."""
        ...

    def close(self) -> None:
        """Write what is left.

        Raises:
            OSError: if the disk refuses.
        """
        ...
