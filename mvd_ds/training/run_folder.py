"""The folder of a run: what lies where, and files that are never half-written.

``recipe.yaml`` resolved settings · ``status.json`` where it stands · ``metrics.jsonl`` and ``tensorboard/`` curves ·
``checkpoints/`` to resume from · ``model/`` the exported weights.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError, Recipe, to_yaml


def write_text(path: Path, text: str) -> None:
    """Write aside, sync, then rename: ``path`` is the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_json(path: Path, values: Any) -> None:
    """``write_text`` of indented JSON."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``.

    Raises:
        ConfigError: if it is missing or not JSON.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return values


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> RunFolder:
        return cls(Path(recipe.run.output.format(recipe=name)))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    def is_finished(self, recipe: Recipe, product: str) -> bool:
        """Whether a run with exactly these settings has ended here and left ``product``."""
        if not self.status.exists() or not (self.path / product).exists():
            return False
        stored = self.path / "recipe.yaml"
        unchanged = stored.exists() and stored.read_text(encoding="utf-8") == to_yaml(recipe)
        return unchanged and read_json(self.status).get("state") == "finished"

    def open(self, recipe: Recipe) -> None:
        """Create the folder and write the resolved recipe into it.

        Raises:
            ConfigError: if the folder cannot be written.
        """
        try:
            write_text(self.path / "recipe.yaml", to_yaml(recipe))
        except OSError as error:
            raise ConfigError(f"run.output {self.path}: cannot be written: {error.strerror}") from None


class Status:
    """``status.json``: state, step, and seconds summed over all attempts."""

    def __init__(self, folder: RunFolder, last_step: int) -> None:
        self.path = folder.status
        earlier = read_json(self.path) if self.path.exists() else {}
        self.started = time.monotonic()
        self.values = {
            "state": "running",
            "command": " ".join(sys.argv),
            "attempts": earlier.get("attempts", 0) + 1,
            "step": 0,
            "last_step": last_step,
            "seconds": 0.0,
        }
        self.earlier_seconds = float(earlier.get("seconds", 0.0))

    def write(self, state: str, step: int, **more: Any) -> None:
        """Record ``state`` (running, stopped, finished or failed) at ``step``."""
        seconds = self.earlier_seconds + time.monotonic() - self.started
        self.values.update(state=state, step=step, seconds=round(seconds, 1), **more)
        write_json(self.path, self.values)
