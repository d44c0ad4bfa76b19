"""Checkpoints that are whole or not there: written aside by all ranks, verified, renamed, then named ``latest``.

``RUN/checkpoints/step-00000100/`` holds DeepSpeed's shards, one random state per rank and ``manifest.json``;
``RUN/checkpoints/latest`` names the newest whole one. Teachers are never in it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mvd_ds.config import ConfigError, LearningRecipe, differences, dump
from mvd_ds.training.cluster import Cluster, fail_alone
from mvd_ds.training.ema import Ema
from mvd_ds.training.run_folder import RunFolder, read_json, write_json, write_text

#: Settings that may differ between the attempts of one run; every other difference is refused on resume.
MAY_CHANGE = re.compile(
    r"run\.(?!seed)|data\.(root|reader|workers|prefetch_batches|max_bad_share|stall_seconds)|schedule\.|optimizer\.|batch\.micro|"
    r"engine\.|model\.(attention|activation_checkpointing)|teachers\.\w+\.(weights|placement|attention|chunk_clips)"
)
#: bytes per parameter of a checkpoint: fp32 master, two moments, and the 16- or 32-bit copy.
BYTES_PER_PARAMETER = 16


class Resumed(NamedTuple):
    """Where a run goes on.

    Attributes:
        step: optimizer steps done; 0 where there is no checkpoint.
        extra: what was given to ``save`` beside it, the same on every rank.
    """

    step: int
    extra: dict[str, Any]


class Checkpoints:
    """Saves and loads the state of one run.

    Attributes:
        last_save_seconds: what the last save of this process took, the longest over the ranks; None before the first.
    """

    def __init__(self, folder: RunFolder, recipe: LearningRecipe, cluster: Cluster, engine: Any, ema: Ema) -> None:
        self.folder, self.recipe, self.cluster, self.engine, self.ema = folder, recipe, cluster, engine, ema
        self.last_save_seconds: float | None = None

    def save(self, step: int, extra: dict[str, Any] | None = None) -> None:
        """Write the checkpoint of ``step`` (optimizer steps done). Collective.

        Args:
            extra: JSON values of rank 0 that ``load`` gives back.

        Raises:
            ConfigError: on every rank, if the disk has not enough room; the older checkpoint stays.
        """
        started = time.monotonic()
        name = f"step-{step:08d}"
        final, aside = self.folder.checkpoints / name, self.folder.checkpoints / f"writing-{name}"
        with self.cluster.together():
            if self.cluster.is_main:
                self._require_space()
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True, exist_ok=True)
        try:
            self.engine.save_checkpoint(str(aside.parent), tag=aside.name, client_state={}, save_latest=False)
        except (OSError, RuntimeError) as error:
            # The other ranks are inside DeepSpeed's own collectives and cannot be asked.
            fail_alone(self.cluster, f"{aside}: could not be written ({error}); the checkpoint before it is whole")
        with self.cluster.together():
            torch.save(_random_state(), aside / f"random_state_rank_{self.cluster.rank}.pt")
            torch.save(self.ema.averages, aside / f"ema_rank_{self.cluster.rank}.pt")
        self.cluster.barrier()
        with self.cluster.together():
            if self.cluster.is_main:
                self._seal(aside, final, step, extra or {})
        self.last_save_seconds = max(self.cluster.gather(time.monotonic() - started))

    def load(self) -> Resumed:
        """Load the newest checkpoint. Collective.

        Raises:
            ConfigError: if it is incomplete, from another number of processes, or from settings that may not change.
        """
        with self.cluster.together():
            found = newest_manifest(self.folder.checkpoints) if self.cluster.is_main else None
        manifest = self.cluster.broadcast(found)
        with self.cluster.together():
            if manifest is not None:
                self._require_fit(manifest)
        if manifest is None:
            return Resumed(0, {})
        name = manifest["name"]
        path, _ = self.engine.load_checkpoint(str(self.folder.checkpoints), tag=name)
        if path is None:
            raise ConfigError(f"{self.folder.checkpoints / name}: DeepSpeed could not load it")
        state = torch.load(self.folder.checkpoints / name / f"random_state_rank_{self.cluster.rank}.pt", weights_only=True)
        _restore_random_state(state)
        averages = torch.load(self.folder.checkpoints / name / f"ema_rank_{self.cluster.rank}.pt", weights_only=True)
        if self.ema.active and averages:
            self.ema.averages = averages
        else:
            self.ema.restart()
        return Resumed(int(manifest["step"]), manifest["extra"])

    def _require_space(self) -> None:
        parameters = sum(getattr(p, "ds_numel", p.numel()) for p in self.engine.module.parameters())
        needed = BYTES_PER_PARAMETER * parameters
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder.checkpoints).free
        if free < needed:
            raise ConfigError(
                f"{self.folder.checkpoints}: a checkpoint needs {needed / 2**30:.2f} GiB and {free / 2**30:.2f} GiB are free; "
                "free some space and start again: the run goes on from the last checkpoint"
            )

    def _seal(self, aside: Path, final: Path, step: int, extra: dict[str, Any]) -> None:
        files = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
        for path in aside.iterdir():
            _sync(path)
        manifest = {
            "name": final.name,
            "step": step,
            "world": self.cluster.world,
            "zero_stage": self.engine.zero_optimization_stage(),
            "recipe": dump(self.recipe),
            "files": files,
            "extra": extra,
        }
        write_json(aside / "manifest.json", manifest)
        if final.exists():
            shutil.rmtree(final)
        os.replace(aside, final)
        _sync(final.parent)
        write_text(self.folder.checkpoints / "latest", final.name + "\n")
        self._prune(keep=final.name)

    def _prune(self, keep: str) -> None:
        every = self.recipe.run.keep_every_steps
        newest = sorted(path.name for path in self.folder.checkpoints.glob("step-*"))[-self.recipe.run.keep_last :]
        for path in self.folder.checkpoints.glob("*step-*"):
            step = int(path.name.rsplit("-", 1)[1])
            if path.name not in (keep, *newest) and (path.name.startswith("writing-") or not every or step % every):
                shutil.rmtree(path, ignore_errors=True)

    def _require_fit(self, manifest: dict[str, Any]) -> None:
        stage = self.engine.zero_optimization_stage()
        faults = [line for line in differences(manifest["recipe"], dump(self.recipe)) if not MAY_CHANGE.match(line)]
        if manifest["world"] != self.cluster.world:
            faults.append(f"number of processes: {manifest['world']} -> {self.cluster.world}")
        if manifest["zero_stage"] != stage:
            faults.append(f"ZeRO stage: {manifest['zero_stage']} -> {stage}")
        if faults:
            where = self.folder.checkpoints / manifest["name"]
            raise ConfigError(
                f"{where} cannot be resumed, these differ: {'; '.join(faults)}; set them back, or use another run.output"
            )


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the checkpoint that ``latest`` names, None where there is none.

    Raises:
        ConfigError: if a file of it is missing or has another size.
    """
    latest = folder / "latest"
    if not latest.exists():
        return None
    path = folder / latest.read_text(encoding="utf-8").strip()
    manifest = read_json(path / "manifest.json")
    for name, size in manifest["files"].items():
        file = path / name
        if not file.exists() or file.stat().st_size != size:
            raise ConfigError(f"{file}: is missing or has another size than written ({size} bytes); remove {path} and {latest}")
    return manifest


def _sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_state() -> dict[str, Any]:
    """State of the generators of this process. Keyed randomness does not use them; what users add may."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, extra = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), extra],
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, extra = state["python"]
    random.setstate((version, tuple(internal), extra))
