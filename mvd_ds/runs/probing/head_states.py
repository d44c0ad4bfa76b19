"""The heads of an interrupted probe: kept beside its results until it is finished, and taken up by the next start."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from mvd_ds.config import ConfigError, ProbeRecipe, dump
from mvd_ds.files import one_line, read_json, write_json, written_aside
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say

#: Settings that change no number of a head.
MAY_CHANGE = ("output", "resume", "save_every_steps", "writers", "heartbeat_seconds", "log_mib", "accept_changed", "device")
DATA_MAY_CHANGE = ("workers", "prefetch_batches", "stall_seconds", "max_bad_share")


class HeadStates:
    """The folder of all heads in training of a run.

    Args:
        folder: the folder; it is removed by ``drop``.
        recipe: the run.
        contents: digests of its inputs; states of other settings or inputs are not taken up.
        cluster: the processes.
    """

    def __init__(self, folder: Path, recipe: ProbeRecipe, contents: Mapping[str, str], cluster: Cluster) -> None:
        values = dump(recipe)
        values["run"] = {key: value for key, value in values["run"].items() if key not in MAY_CHANGE}
        values["data"] = {key: value for key, value in values["data"].items() if key not in DATA_MAY_CHANGE}
        del values["timeout_minutes"]
        text = json.dumps([values, dict(contents)], sort_keys=True)
        self.folder, self.cluster, self.may_resume = folder, cluster, recipe.run.resume == "auto"
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def of(self, name: str) -> KeptHeads:
        """Return the place of one kind of head on one model."""
        return KeptHeads(self, self.folder / quote(name, safe=" "))  # no two names share a folder

    def drop(self) -> None:
        """Remove all states: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


class KeptHeads:
    """The states of one kind of head on one model, a file for each bank of heads; a ``Keeper``.

    A step counts once ``step.json`` names it, and that is written when the files of all processes are whole.
    """

    def __init__(self, states: HeadStates, folder: Path) -> None:
        self.states, self.folder, self.cluster = states, folder, states.cluster
        self.step = 0

    def begin(self) -> int:
        """Return the step after which training goes on; 0: from the start. Collective."""
        found = 0
        with self.cluster.together():
            if self.cluster.is_main:
                self.folder.mkdir(parents=True, exist_ok=True)
                found = self._kept_step()
        self.step = self.cluster.broadcast(found)
        return self.step

    def _kept_step(self) -> int:
        path = self.folder / "step.json"
        if not path.is_file():
            return 0
        kept = read_json(path)
        if not self.states.may_resume or kept.get("digest") != self.states.digest:
            say(f"{one_line(self.folder)}: heads of other settings or inputs begin anew")
            path.unlink()
            return 0
        say(f"heads of {self.folder.name} go on after step {kept['step']}")
        return int(kept["step"])

    def load(self, number: int) -> dict[str, Any]:
        """Return the state of a bank of heads at that step.

        Raises:
            ConfigError: if its file is gone or damaged.
        """
        path = self._path(number, self.step)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged archive raises
            raise ConfigError(
                f"{path}: cannot be read: {one_line(error, 200)}; is it the same folder on every host? run.resume=never "
                "begins anew"
            ) from None

    def save(self, step: int, states: dict[int, dict[str, Any]]) -> None:
        """Keep this process's states after a step. Collective."""
        with self.cluster.together():
            for number, state in states.items():
                with written_aside(self._path(number, step)) as aside:
                    torch.save(state, aside)
        with self.cluster.together():
            if self.cluster.is_main:
                write_json(self.folder / "step.json", {"step": step, "digest": self.states.digest})
        self.step = step
        for number in states:
            for path in self.folder.glob(f"bank-{number}.step-*.pt"):
                if path != self._path(number, step):
                    path.unlink(missing_ok=True)

    def _path(self, number: int, step: int) -> Path:
        return self.folder / f"bank-{number}.step-{step}.pt"
