"""Clips a second through worker processes: the loader of training, and the reference through torch's DataLoader."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
from torch.utils.data import DataLoader

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.workers.forkserver import forkserver_context
from mvd_ds.data.workers.quarantine import Barred, Quarantine
from mvd_ds.data.workers.shared_memory import TensorLayout
from mvd_ds.data.workers.stream import filled_batches
from mvd_ds.data.workers.workers import Reading
from mvd_ds.tools.bench.reference import ReferenceClips

WARM_BATCHES = 4
"""Taken before the clock starts, beside what lies ready by then."""

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""The system counts CPU time in steps of this."""


class Rate(NamedTuple):
    """How fast a stream runs."""

    clips_per_second: float
    cpu_ms: float
    """A clip, of the workers and the process that they work for."""

    @property
    def clips_per_second_per_core(self) -> float:
        """If a core did nothing else."""
        return 1000 / self.cpu_ms


def loader_rate(recipe: TrainingRecipe, clips: int) -> Rate:
    """Of the clip stream of ``recipe``, alone on this machine."""
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    batches = loader.batches(0, 10**9)
    try:
        return _rate(batches, recipe.batch.micro, clips, recipe.data.prefetch_batches)
    finally:
        loader.close()


def reference_rate(recipe: TrainingRecipe, paths: Sequence[str], clips: int) -> Rate:
    """Of the reference pipeline with as many workers."""
    loader = DataLoader(
        ReferenceClips(paths, recipe.data.clip),
        batch_size=recipe.batch.micro,
        num_workers=recipe.data.workers,
        multiprocessing_context=forkserver_context(()),
    )
    return _rate(iter(loader), recipe.batch.micro, clips, 2 * recipe.data.workers)


def wait_share(recipe: TrainingRecipe, clips_per_second: float, batches: int) -> float:
    """Share of its time that a consumer waits which takes ``clips_per_second``; the first batch does not count."""
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    stream = loader.batches(0, 10**9)
    next(stream)
    busy = recipe.batch.micro / clips_per_second
    waited = 0.0
    began = time.monotonic()
    for _ in range(batches):
        time.sleep(busy)
        asked = time.monotonic()
        next(stream)
        waited += time.monotonic() - asked
    share = waited / (time.monotonic() - began)
    loader.close()
    return share


def transport_ms(recipe: TrainingRecipe, clips: int) -> float:
    """CPU milliseconds to hand a clip over that lies in shared memory already: orders, answers and tensors."""
    clip, micro = recipe.data.clip, recipe.batch.micro
    job = _Nothing({"clip": TensorLayout((3, clip.frames, clip.size_px, clip.size_px), "uint8")})
    groups = (range(first, first + micro) for first in itertools.count(0, micro))
    batches = filled_batches(job, groups, micro, recipe.data, Quarantine())
    try:
        return _rate(batches, micro, clips, recipe.data.prefetch_batches).cpu_ms
    finally:
        batches.close()  # type: ignore[attr-defined]


class _Nothing:
    """A job without work."""

    def __init__(self, layout: dict[str, TensorLayout]) -> None:
        self.layout = layout

    def path(self, video: int) -> str:
        return str(video)

    def fill(self, items: Sequence[int], rows: dict[str, np.ndarray], barred: Barred, reading: Reading) -> list[str]:
        return []


def _rate(batches: Iterator[Any], micro: int, clips: int, ready: int) -> Rate:
    for _ in range(WARM_BATCHES + ready):
        next(batches)
    processes = [psutil.Process(), *(psutil.Process(child.pid) for child in multiprocessing.active_children())]
    began, spent = time.monotonic(), _cpu_seconds(processes)
    wanted = -(-clips // micro)
    for _ in itertools.islice(batches, wanted):
        pass
    seconds, cpu = time.monotonic() - began, max(_cpu_seconds(processes) - spent, _TICK_SECONDS)
    return Rate(wanted * micro / seconds, 1000 * cpu / (wanted * micro))


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
