"""The work of one process at a cache of targets: it reads clips, asks the teachers, and writes the files that are its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipView, ConfigError, TrainingRecipe
from mvd_ds.data.cached.files import RowWriter, file_bytes, file_name, written_file
from mvd_ds.data.cached.index import SCALE, CacheIndex
from mvd_ds.data.cached.views import FixedBatch, FixedClips
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import filled_batches
from mvd_ds.files import read_json, write_json
from mvd_ds.training.cached_targets import decode, encode
from mvd_ds.training.cluster import Cluster, fail_alone
from mvd_ds.training.console import StepProgress
from mvd_ds.training.device_batch import mirror
from mvd_ds.training.step import TeacherTargets


class Shown(NamedTuple):
    """The part of a batch that teachers look at."""

    views: dict[ClipView, Tensor]
    """Every view, uint8 (B, C, T, H, W)."""


def black(recipe: TrainingRecipe, job: FixedClips, device: torch.device) -> Shown:
    """Return black clips of every view, as many as a micro batch has."""
    shapes = job.view_shapes.items()
    return Shown({view: torch.zeros((recipe.batch.micro, *shape), dtype=torch.uint8, device=device) for view, shape in shapes})


@torch.no_grad()
def ask(recipe: TrainingRecipe, targets: TeacherTargets, shown: Shown) -> dict[str, Tensor]:
    """Return what all teachers give of these clips, by name of the output. Collective where they are sharded."""
    found: dict[str, Tensor] = {}
    for teacher in recipe.teachers:
        found |= targets.sources(teacher, shown)  # type: ignore[arg-type]
    return found


def description_file(folder: Path, number: int) -> Path:
    """Return the path of the description of a file, which is written after it."""
    return folder / file_name(number).replace(".safetensors", ".json")


def described(folder: Path, number: int, index: CacheIndex) -> dict[str, Any] | None:
    """Return the description of a file, ``faults`` by video and sums of ``errors`` by output; None while it is not whole."""
    path, file = description_file(folder, number), folder / file_name(number)
    if not path.exists() or not file.exists() or file.stat().st_size != file_bytes(index, number):
        return None
    values: dict[str, Any] = read_json(path)
    return values


class CacheFiller:
    """The part of a process in filling a cache.

    Args:
        folder: folder of the cache.
        recipe: the run, which asks its teachers.
        index: description of the cache.
        job: reads the clips.
        targets: asks the teachers.
        cluster: the processes.
    """

    def __init__(
        self,
        folder: Path,
        recipe: TrainingRecipe,
        index: CacheIndex,
        job: FixedClips,
        targets: TeacherTargets,
        cluster: Cluster,
    ) -> None:
        self.folder, self.recipe, self.index, self.job = folder, recipe, index, job
        self.targets, self.cluster = targets, cluster
        self.is_sharded = any(teacher.placement != "replicated" for teacher in recipe.teachers.values())
        self.batches_per_file = math.ceil(index.clips_per_file * index.crops / recipe.batch.micro)

    def fill(self, missing: list[int]) -> None:
        """Write this rank's share of the files ``missing``. Collective.

        Raises:
            ConfigError: on every rank, if one cannot read, write, or store what a teacher gives.
        """
        mine = missing[self.cluster.rank :: self.cluster.world]
        rounds = math.ceil(len(missing) / self.cluster.world)
        with self.cluster.together():
            try:
                self._fill(mine)
                self._idle((rounds - len(mine)) * self.batches_per_file)
            except (ConfigError, OSError) as error:
                if self.is_sharded and self.cluster.world > 1:  # the others wait for this rank in a teacher
                    fail_alone(self.cluster, str(error))
                raise

    def _fill(self, mine: list[int]) -> None:
        groups = {number: self._groups(number) for number in mine}
        order = [group for number in mine for group in groups[number]]
        data, micro = self.recipe.data, self.recipe.batch.micro
        together = self.index.crops * data.clips_per_video
        pin = self.cluster.device.type == "cuda"
        progress = StepProgress("cache-targets", 0, len(order), enabled=self.cluster.is_main and bool(order))
        stream = filled_batches(self.job, order, micro, data, Quarantine(), together, pin)
        batches = (self.job.batch(filled) for filled in stream)
        done = 0
        try:
            for number in mine:
                self._write(number, len(groups[number]), batches)
                done += len(groups[number])
                progress.update(done, "micro batches of this process")
        finally:
            stream.close()  # type: ignore[attr-defined]
            progress.close()

    def _groups(self, number: int) -> list[list[int]]:
        """Return the items of a file in micro batches; the last repeats its last item, so that all have one shape."""
        micro, clips = self.recipe.batch.micro, self.index.clips_of(number)
        items = list(range(clips.start * self.index.crops, clips.stop * self.index.crops))
        groups = [items[first : first + micro] for first in range(0, len(items), micro)]
        return [group + group[-1:] * (micro - len(group)) for group in groups]

    def _write(self, number: int, count: int, batches: Iterator[FixedBatch]) -> None:
        """Write file ``number`` from its ``count`` batches, and its description when it is whole."""
        sums: dict[str, list[float]] = {name: [0.0, 0.0, 0.0] for name in self.index.outputs}
        faults: dict[int, str] = {}
        try:
            with written_file(self.folder, self.index, number) as writer:
                for _ in range(count):
                    batch = next(batches)
                    faults |= batch.faults
                    self._write_batch(writer, batch, sums)
                self._idle(self.batches_per_file - count)
            write_json(description_file(self.folder, number), {"faults": faults, "errors": sums})
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"targets.cache {self.folder}: {file_name(number)} cannot be written: {reason}; files that are whole stay, and "
                "the same command goes on with the others"
            ) from None

    def _write_batch(self, writer: RowWriter, batch: FixedBatch, sums: dict[str, list[float]]) -> None:
        views = {view: clips.to(self.cluster.device, non_blocking=True) for view, clips in batch.views.items()}
        rows = {item: row for row, item in enumerate(batch.items.tolist()) if batch.ok[row]}
        for flip in self.index.flips:
            mirrored = torch.full((len(batch.items),), flip)
            given = self._ask(Shown({view: mirror(clips, mirrored) for view, clips in views.items()}))
            stored = self._stored(given, rows, sums)
            for place, item in enumerate(rows):
                _, row = self.index.row(item // self.index.crops, item % self.index.crops, flip)
                writer.write(row, {name: array[place] for name, array in stored.items()})

    def _stored(self, given: dict[str, Tensor], rows: dict[int, int], sums: dict[str, list[float]]) -> dict[str, np.ndarray]:
        """Return the arrays of a file for some rows of a batch, by item, and add to the sums of errors.

        Raises:
            ConfigError: if a teacher gives what cannot be stored.
        """
        found = {}
        for name, output in self.index.outputs.items():
            values = given[name][list(rows.values())]
            stored, scale = encode(values, output.store, output.groups)
            error = (decode(stored, scale, torch.float32) - values.float()).double()
            sizes = torch.stack((error.square().sum(), values.double().square().sum(), _largest(error))).tolist()
            if not all(map(math.isfinite, sizes)):
                raise ConfigError(self._not_finite(name, output.store, dict(zip(rows, values, strict=True))))
            sums[name] = [sums[name][0] + sizes[0], sums[name][1] + sizes[1], max(sums[name][2], sizes[2])]
            bits = stored.view(torch.int16) if stored.dtype == torch.bfloat16 else stored
            found[name] = bits.cpu().numpy()
            if scale is not None:
                found[name + SCALE] = scale.cpu().numpy()
        return found

    def _not_finite(self, name: str, store: str, values: dict[int, Tensor]) -> str:
        """Return a line on the first clip of which a teacher gives what cannot be stored; ``values`` by item."""
        for item, given in values.items():
            stored, scale = encode(given, store, self.index.outputs[name].groups)
            if not decode(stored, scale, torch.float32).isfinite().all():
                told = f"{name}: its teacher gives numbers of {self.job.path(self.job.video(item))} that are not finite"
                if not given.isfinite().all():
                    return f"{told}; use engine.precision=fp32, or mend the weights of what makes them"
                return f"{told} in {store}; choose targets.store={'bf16' if store == 'fp16' else 'fp32'}"
        raise AssertionError(f"{name} is finite")

    def _ask(self, shown: Shown) -> dict[str, Tensor]:
        return ask(self.recipe, self.targets, shown)

    def _idle(self, batches: int) -> None:
        """Take part in sharded teachers while other ranks have batches left."""
        shown = black(self.recipe, self.job, self.cluster.device)
        for _ in range(batches * len(self.index.flips) if self.is_sharded else 0):
            self._ask(shown)


def _largest(error: Tensor) -> Tensor:
    return error.abs().max() if error.numel() else error.new_zeros(())
