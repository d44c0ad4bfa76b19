"""Clips per second through worker processes: the loader of training, and a reference pipeline in torch's DataLoader."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ClipSettings, TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import multiscale_box
from mvd_ds.data.workers.quarantine import Barred, Quarantine
from mvd_ds.data.workers.shared_memory import TensorLayout
from mvd_ds.data.workers.stream import filled_batches
from mvd_ds.data.workers.workers import Reading, forkserver_context

WARM_BATCHES = 4
"""Batches that are taken before the clock starts, beside those that lie ready by then."""

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""Resolution of the system's CPU time."""


EXPECTED_MS = (100.0, 140.0)
"""CPU milliseconds in which a clip of the reference lands: ten seconds, 340 x 256, in one process without the DataLoader's
transport (79 of decord, 40 after it on an EPYC core); outside of them something else was measured."""


class Rate(NamedTuple):
    """The speed of a stream of clips."""

    clips_per_second: float
    cpu_ms: float
    """CPU milliseconds per clip, of the workers and the process that they work for."""


def loader_rate(recipe: TrainingRecipe, clips: int) -> Rate:
    """Return the rate of the clip stream of ``recipe``, alone on this machine."""
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    batches = loader.batches(0, 10**9)
    try:
        return _rate(batches, recipe.batch.micro, clips, recipe.data.prefetch_batches)
    finally:
        loader.close()


def reference_rate(recipe: TrainingRecipe, paths: Sequence[str], clips: int) -> Rate:
    """Return the rate of the reference pipeline with as many workers."""
    loader = DataLoader(
        ReferenceClips(paths, recipe.data.clip),
        batch_size=recipe.batch.micro,
        num_workers=recipe.data.workers,
        multiprocessing_context=forkserver_context(()),
    )
    return _rate(iter(loader), recipe.batch.micro, clips, 2 * recipe.data.workers)


def wait_share(recipe: TrainingRecipe, clips_per_second: float, batches: int) -> float:
    """Return the share of time that a consumer of ``clips_per_second`` waits; the first batch does not count."""
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
    """Return CPU milliseconds to hand over a clip that already lies in shared memory: orders, answers and tensors."""
    clip, micro = recipe.data.clip, recipe.batch.micro
    job = _Nothing({"clip": TensorLayout((3, clip.frames, clip.size_px, clip.size_px), "uint8")})
    groups = (range(first, first + micro) for first in itertools.count(0, micro))
    batches = filled_batches(job, groups, micro, recipe.data, Quarantine())
    try:
        return _rate(batches, micro, clips, recipe.data.prefetch_batches).cpu_ms
    finally:
        batches.close()  # type: ignore[attr-defined]


class _Nothing:
    """A worker's job that does nothing."""

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


class ReferenceClips(Dataset[tuple[Tensor, Tensor]]):
    """The usual pipeline, for comparison: decord, Pillow, and two views fp32 (C, T, H, W), resized one by one from one crop."""

    def __init__(self, paths: Sequence[str], clip: ClipSettings) -> None:
        self._paths, self._clip = list(paths), clip

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        import decord

        generator = keyed_generator(0, "reference", number)
        reader = decord.VideoReader(self._paths[number % len(self._paths)], num_threads=1)
        indices = frame_indices(len(reader), self._clip, generator, reader.get_avg_fps())
        pictures = [Image.fromarray(frame).convert("RGB") for frame in reader.get_batch(indices.tolist()).asnumpy()]
        size = self._clip.size_px
        box = multiscale_box(pictures[0].height, pictures[0].width, size, generator)
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        crops = [picture.crop(area) for picture in pictures]
        views = [[crop.resize((size, size), Image.Resampling.BILINEAR) for crop in crops] for _ in range(2)]
        return _normalised(views[0]), _normalised(views[1])


def reference_ms(paths: Sequence[str], clip: ClipSettings, clips: int) -> float:
    """Return CPU milliseconds of a reference clip in this process, without the cost of workers."""
    made = ReferenceClips(paths, clip)
    began = time.process_time()
    for number in range(clips):
        made[number]
    return 1000 * (time.process_time() - began) / clips


def _normalised(pictures: list[Image.Image]) -> Tensor:
    """Return fp32 (C, T, H, W), stacked along the colours, scaled to [0, 1] and normalised colour by colour."""
    stacked = np.concatenate([np.asarray(picture) for picture in pictures], axis=2)
    clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    means, deviations = IMAGENET_MEAN * len(pictures), IMAGENET_STD * len(pictures)
    for plane, mean, deviation in zip(clip, means, deviations, strict=True):
        plane.sub_(mean).div_(deviation)
    return clip.view(len(pictures), 3, *clip.shape[1:]).transpose(0, 1)
