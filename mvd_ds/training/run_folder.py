"""The folder of a run, the paths in it, and its status.

``recipe.yaml`` resolved settings · ``status.json`` where it stands · ``metrics.jsonl`` and ``tensorboard/`` curves ·
``pictures/`` what the network makes of a few
clips · ``checkpoints/`` to resume from · ``model/`` the exported weights · ``attempts/`` where each attempt came from · ``logs/``
what every rank said and where it hung · ``dumps/`` steps that were not finite · ``control/`` who works here, and ``stop``.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError, Recipe, to_yaml
from mvd_ds.files import read_json, write_json, write_text

#: Exit codes of a process of a run, and of the ``status`` command.
FINISHED, FAILED, STILL_RUNNING, PREEMPTED = 0, 1, 3, 75
#: Names of files written aside: those of ``files.written_aside``, and of versions before it.
LEFTOVER = re.compile(r"\..+\.partial|\.(latest|[\w-]+\.(json|jsonl|yaml))\.\d+")
#: Exit code by state. ``stopped`` is where ``run.stop_after_steps`` said; a preempted run goes on by the same command.
EXIT_CODES = {"finished": FINISHED, "stopped": FINISHED, "preempted": PREEMPTED, "failed": FAILED, "running": STILL_RUNNING}


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run and the paths in it."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> RunFolder:
        return cls(Path(recipe.run.output.replace("{recipe}", name)))

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
    def pictures(self) -> Path:
        """Pictures, in a folder for each step."""
        return self.path / "pictures"

    @property
    def control(self) -> Path:
        """Owner, signs of life and stop requests."""
        return self.path / "control"

    @property
    def stop(self) -> Path:
        """The file that asks the run to save and end."""
        return self.control / "stop"

    def attempt(self, attempt: int) -> Path:
        """Return the file of an attempt's provenance."""
        return self.path / "attempts" / f"attempt-{attempt:03}.json"

    def logs(self, attempt: int) -> Path:
        """Return the folder of an attempt's logs and stacks."""
        return self.path / "logs" / f"attempt-{attempt:03}"

    def dump(self, step: int) -> Path:
        """Return the folder of the dump of a step that was not finite."""
        return self.path / "dumps" / f"step-{step:08}"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def contents(self) -> Path:
        """Digests of the files that the run depends on, by setting."""
        return self.path / "contents.json"

    @property
    def digests(self) -> Path:
        """Digests of large files, kept so that a restart need not read them again."""
        return self.control / "digests.json"

    @property
    def students(self) -> dict[str, Path]:
        """Folders of the students of a run of several, by name, which are runs, too; empty for any other run.

        Raises:
            ConfigError: if ``status.json`` is damaged.
        """
        values = read_json(self.status) if self.status.exists() else {}
        found = values.get("students", {}) if isinstance(values, dict) else {}
        return {str(name): self.path / str(place) for name, place in found.items()}

    def remove_leftovers(self) -> None:
        """Remove what a killed process was writing aside; called by the one process that holds the folder."""
        for folder in (self.path, self.checkpoints, self.control, self.control / "heartbeats", self.path / "attempts"):
            for path in folder.glob(".*"):
                if LEFTOVER.fullmatch(path.name) and not path.is_dir():
                    path.unlink(missing_ok=True)

    def open(self, recipe: Recipe, contents: Mapping[str, str]) -> None:
        """Create the folder and write the resolved recipe, and the contents that it is run on, into it.

        An earlier run that was finished here is so no more: what it left is about to be replaced.

        Args:
            recipe: the resolved recipe.
            contents: of ``contents.contents_of``.

        Raises:
            ConfigError: if the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.status.exists() and (earlier := read_json(self.status)).get("state") == "finished":
                write_json(self.status, {**earlier, "state": "running"})
            write_text(self.path / "recipe.yaml", to_yaml(recipe))
            write_json(self.contents, dict(contents))
        except OSError as error:
            raise ConfigError(f"run.output {self.path}: cannot be written: {error.strerror}") from None


class Status:
    """The file ``status.json``: state, step, and seconds summed over all attempts."""

    def __init__(self, folder: RunFolder, last_step: int) -> None:
        self.path = folder.status
        earlier = read_json(self.path) if self.path.exists() else {}
        self.started = time.monotonic()
        self.values = {
            "state": "running",
            "command": " ".join(sys.argv),
            "attempts": earlier.get("attempts", 0) + 1,
            "step": earlier.get("step", 0),
            "last_step": last_step,
            "seconds": 0.0,
        }
        self.earlier_seconds = float(earlier.get("seconds", 0.0))

    def write(self, state: str, step: int, **more: Any) -> None:
        """Record ``state`` (a key of ``EXIT_CODES``) at ``step``."""
        self.values.update(state=state, step=step, seconds=self._seconds(), **more)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.values)

    def fail(self, reason: str) -> None:
        """Record, from any rank, that the attempt failed; what was saved stays as it is told.

        Raises:
            OSError: if the folder is gone or the disk refuses.
        """
        values = read_json(self.path) if self.path.exists() else self.values
        write_json(self.path, {**values, "state": "failed", "reason": reason, "seconds": self._seconds()})

    def _seconds(self) -> float:
        return round(self.earlier_seconds + time.monotonic() - self.started, 1)
