"""Metrics as lines of JSON: ``metrics.jsonl``, from which reports are made. After a resume no step stands twice in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mvd_ds.files import write_text
from mvd_ds.training.reporting.writers.writer import WrittenRun


class JsonLines:
    """A writer of one JSON object a line."""

    def __init__(self, run: WrittenRun) -> None:
        """Open the file; lines of steps that will be done again are dropped."""
        _keep_until(run.metrics, run.first_step)
        self.file = open(run.metrics, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool) -> None:
        """Do nothing: ``recipe.yaml`` holds the settings."""

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Do nothing: ``pictures/`` holds the images."""

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Do nothing: ``pictures/`` holds the numbers."""

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps after ``step``, and a last line that was cut."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    write_text(path, "".join(line + "\n" for line in kept))
