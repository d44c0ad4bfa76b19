"""Checkpoints that are whole or not there: written aside by all ranks, on disk, renamed, then named ``latest``.

``RUN/checkpoints/step-00000100/`` holds DeepSpeed's shards, the shards of the moving average, a random state per rank and
``manifest.json`` with the size and digest of each; ``RUN/checkpoints/latest`` names the newest whole one. Teachers are
never in it. Nothing that is read can run code, and any number of processes and any ZeRO stage goes on exactly.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mvd_ds import __version__
from mvd_ds.config import ConfigError, LearningRecipe, dump
from mvd_ds.files import write_text
from mvd_ds.models.formats.containers import load_pickled
from mvd_ds.models.formats.zero_shards import OURS, ZeroShards
from mvd_ds.training.checkpoint import files
from mvd_ds.training.checkpoint.fit import changes_since
from mvd_ds.training.checkpoint.random_state import random_state, restore_random_state
from mvd_ds.training.checkpoint.resharding import load_shards, require_same_parameters
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.engine_shards import parameter_names
from mvd_ds.training.engine.protocol import Engine, SaveShards
from mvd_ds.training.run_folder import RunFolder

#: Bytes per parameter of a checkpoint, until one was measured: fp32 master, two moments and a 32-bit copy; and an average.
BYTES_PER_PARAMETER, BYTES_OF_AVERAGE = 16, 4


class Resumed(NamedTuple):
    """The step at which a run goes on, and what was saved beside it.

    Attributes:
        step: optimizer steps done; 0 where there is no checkpoint.
        extra: what was given to ``save`` beside it, the same on every rank.
        statistics: state of the statistics of targets, to be loaded once there are targets.
    """

    step: int
    extra: dict[str, Any]
    statistics: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


class Checkpoints:
    """The checkpoints of one run: its state is saved to them and loaded from them.

    Attributes:
        statistics: gives the state of the statistics of targets, the same on all ranks; set once there are targets.
        last_save_seconds: what the last save of this process took, the longest over the ranks; None before the first.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: LearningRecipe,
        cluster: Cluster,
        engine: Engine,
        ema: Ema,
        save_shards: SaveShards,
        contents: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the parts of a run.

        Args:
            folder: the run's folder.
            recipe: its recipe.
            cluster: its processes.
            engine: of ``start_student``.
            ema: the moving average of its weights.
            save_shards: has the engine's shards written.
            contents: digests of its inputs by setting, the same on every rank.
        """
        self.contents, self.save_shards = dict(contents or {}), save_shards
        self.folder, self.recipe, self.cluster, self.engine, self.ema = folder, recipe, cluster, engine, ema
        self.statistics: Callable[[], dict[str, Tensor]] = dict
        self.last_save_seconds: float | None = None
        self._last_save_bytes: int | None = None
        self._is_begun = False

    def save(self, step: int, extra: dict[str, Any] | None = None) -> None:
        """Write the checkpoint of ``step`` (optimizer steps done). Collective.

        Args:
            extra: JSON values of rank 0 that ``load`` gives back.

        Raises:
            ConfigError: on every rank, if the disk is full, fails, or is gone; the older checkpoints stay whole.
        """
        started = time.monotonic()
        aside = self.folder.checkpoints / f"writing-{files.step_name(step)}"
        with self.cluster.together():
            if self.cluster.is_main:
                self._make_room(aside)
        try:
            written = self._write_shards(aside)
            with self.cluster.together():
                if self.cluster.is_main:
                    self._seal(aside, step, written, extra or {})
        except ConfigError:
            if self.cluster.is_main:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        self._last_save_bytes = sum(entry["size"] for entry in written.values())
        self.last_save_seconds = max(self.cluster.gather(time.monotonic() - started))

    def load(self) -> Resumed:
        """Load the newest checkpoint that is whole; what is wrong with a newer one is said. Collective.

        Raises:
            ConfigError: if there are checkpoints and none can be read, or settings differ that may not.
        """
        with self.cluster.together():
            found = files.newest_first(self.folder.checkpoints) if self.cluster.is_main else None
        faults: list[str] = []
        candidates = self.cluster.broadcast(found)
        self._is_begun = bool(candidates)
        for path in candidates:
            try:
                manifest, shards = self._open(path)
            except ConfigError as error:
                faults.append(str(error).splitlines()[0])
                if path != candidates[-1]:
                    self._say(f"{faults[-1]}; taking the checkpoint before it")
                continue
            return self._take(manifest, shards)
        if faults:
            raise ConfigError(
                f"{self.folder.checkpoints}: none of {len(faults)} checkpoints can be read ({faults[0]}); restore one, or "
                f"remove {self.folder.checkpoints} to begin again at step 0"
            )
        return Resumed(0, {})

    def _make_room(self, aside: Path) -> None:
        folder = self.folder.checkpoints
        if not (folder if self._is_begun else self.folder.path).is_dir():
            raise ConfigError(f"{folder}: is gone; bring it back (is the disk mounted?) and start again")
        folder.mkdir(exist_ok=True)
        self._is_begun = True
        for leftover in folder.glob("writing-step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        parameters = sum(getattr(p, "ds_numel", p.numel()) for p in self.engine.module.parameters())
        estimate = (BYTES_PER_PARAMETER + BYTES_OF_AVERAGE * self.ema.active) * parameters
        needed, free = self._last_save_bytes or estimate, shutil.disk_usage(folder).free
        if free < needed:
            raise ConfigError(
                f"{folder}: a checkpoint needs {needed / 2**30:.3g} GiB and {free / 2**30:.3g} GiB are free; "
                "free some space and start again: the run goes on from the last checkpoint"
            )
        aside.mkdir()

    def _write_shards(self, aside: Path) -> dict[str, dict[str, Any]]:
        """Have all ranks write, and give back size and digest of every file. Collective.

        A rank whose disk refuses goes on through DeepSpeed's own collectives; after them all raise together.
        """
        written: dict[str, dict[str, Any]] = {}
        refused: list[str] = []

        def write(path: Path, content: Any) -> None:
            try:
                written[path.name] = files.write_tensors(path, content)
            except (OSError, RuntimeError) as error:
                refused.append(f"{path}: could not be written ({_reason(error)}); the checkpoint before it is whole")

        rank, stage = self.cluster.rank, self.engine.zero_optimization_stage()
        self.save_shards(self.engine, aside, write, {OURS: {"parameter_names": parameter_names(self.engine)}})
        write(aside / _random_name(rank), random_state())
        statistics = self.statistics()
        if statistics and self.cluster.is_main:
            write(aside / files.STATISTICS_NAME, statistics)
        if self.ema.active and (stage or self.cluster.is_main):
            write(aside / f"{files.AVERAGE_PREFIX}{rank:05d}.pt", {"averages": self.ema.averages})
        with self.cluster.together():
            if refused:
                raise ConfigError(refused[0])
            files.sync_folder(aside)
        return {name: entry for part in self.cluster.gather(written) for name, entry in sorted(part.items())}

    def _seal(self, aside: Path, step: int, written: dict[str, dict[str, Any]], extra: dict[str, Any]) -> None:
        """Write manifest, final name and ``latest`` on rank 0, in an order in which every crash leaves a whole checkpoint."""
        for name, entry in written.items():
            if not (aside / name).exists() or (aside / name).stat().st_size != entry["size"]:
                raise ConfigError(f"{aside / name}: does not arrive as written; do all ranks share {self.folder.path}?")
        name = files.step_name(step)
        layout = {
            "world": self.cluster.world,
            "zero_stage": int(self.engine.zero_optimization_stage()),
            "accumulation": self.recipe.batch.accumulation_steps(self.cluster.world),
            "precision": self.recipe.engine.precision,
        }
        versions = {"mvd_ds": __version__, "python": platform.python_version()}
        versions |= {package: version(package) for package in ("torch", "deepspeed")}
        manifest = {"name": name, "step": step, "layout": layout, "versions": versions, "skipped": self.engine.skipped_steps}
        files.write_manifest(
            aside, {**manifest, "recipe": dump(self.recipe), "contents": self.contents, "files": written, "extra": extra}
        )
        files.sync_folder(aside)
        final, replaced = aside.with_name(name), aside.with_name(f"writing-{name}-replaced")
        if final.exists():
            os.replace(final, replaced)
        os.replace(aside, final)
        files.sync_folder(final.parent)
        write_text(final.parent / files.LATEST_NAME, name + "\n")
        files.sync_folder(final.parent)
        settings = self.recipe.run
        for path in [replaced, *files.to_prune(final.parent, step, settings.keep_last, settings.keep_every_steps)]:
            shutil.rmtree(path, ignore_errors=True)

    def _open(self, path: Path) -> tuple[dict[str, Any], ZeroShards]:
        """Return manifest and shards of a checkpoint, verified by all ranks; restore this rank's random state. Collective.

        Raises:
            ConfigError: on every rank, if any file is not what was written.
        """
        with self.cluster.together():
            manifest = files.read_checkpoint_manifest(path) if self.cluster.is_main else {}
        manifest = self.cluster.broadcast(manifest)
        listed = sorted(manifest["files"])
        with self.cluster.together():
            files.verify(path, manifest["files"], listed[self.cluster.rank :: self.cluster.world])
        with self.cluster.together():
            shards = ZeroShards(path, listed)
            own = _random_name(self.cluster.rank)
            if own in listed:
                # Ranks that the run did not have before keep their own: what trains is keyed by clip, not by rank.
                restore_random_state(load_pickled(path / own), path / own)
        return manifest, shards

    def _take(self, manifest: dict[str, Any], shards: ZeroShards) -> Resumed:
        """Continue from an opened checkpoint. Collective."""
        with self.cluster.together():
            self._tell_changes(manifest)
            require_same_parameters(self.engine, shards)
        load_shards(self.engine, self.ema, shards)
        self.engine.global_steps, self.engine.skipped_steps = manifest["step"], manifest["skipped"]
        self.engine.global_samples = manifest["step"] * self.recipe.batch.global_
        with self.cluster.together():
            path = self.folder.checkpoints / manifest["name"] / files.STATISTICS_NAME
            statistics = load_pickled(path) if files.STATISTICS_NAME in manifest["files"] else {}
        return Resumed(manifest["step"], manifest["extra"], statistics)

    def _tell_changes(self, manifest: dict[str, Any]) -> None:
        """Say what changed since the checkpoint.

        Raises:
            ConfigError: if something changed that may not.
        """
        where = self.folder.checkpoints / manifest["name"]
        lines = changes_since(manifest, where, self.recipe, self.contents)
        layout = manifest["layout"]
        for key, now in (("world", self.cluster.world), ("zero_stage", int(self.engine.zero_optimization_stage()))):
            if layout.get(key) != now:
                lines.append(f"{key.replace('_', ' ')}: {layout.get(key)} -> {now}")
        if lines:
            self._say(f"since {where.name} these changed: {'; '.join(lines)}")

    def _say(self, text: str) -> None:
        if self.cluster.is_main:
            say(text)


def _random_name(rank: int) -> str:
    return f"random_state_rank_{rank:05d}.pt"


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__
