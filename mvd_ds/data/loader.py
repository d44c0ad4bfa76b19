"""Worker processes that run ahead of training, and one line that says what went wrong in them."""

from __future__ import annotations

import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvd_ds.config import ConfigError, DataSettings, LearningRecipe, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.dataset import ClipDataset, ClipKey, Failure, KeyedClips, VideoSource
from mvd_ds.data.manifest import Manifest, read_manifest
from mvd_ds.data.sampling import SAMPLERS
from mvd_ds.data.transforms import center_box, cut
from mvd_ds.data.video import DecodeError, one_line

_PRELOAD = ["torch", "mvd_ds.data.loader"]
_POLL_SECONDS = 5.0
"""How often a waiting loader looks whether its workers live: DataLoader does that only when its own timeout ends."""


class ClipLoader:
    """The clip stream of one rank. Step s of G clips uses positions [s*G, (s+1)*G); a partial step does not exist."""

    def __init__(
        self, recipe: LearningRecipe, drop_path_blocks: int, rank: int, world: int, dataset: KeyedClips | None = None
    ) -> None:
        """Hand out clips.

        Args:
            recipe: the training run.
            drop_path_blocks: uniforms per mask that the model wants.
            rank: number of this process.
            world: number of processes.
            dataset: the clips; None: those of the manifest of a masked-prediction recipe, with their masks.

        Raises:
            ConfigError: for a faulty manifest, or fewer clips than one global batch.
        """
        data = recipe.data
        if dataset is None:
            assert isinstance(recipe, TrainingRecipe)
            dataset = ClipDataset(recipe, read_manifest(data.manifest, data.root), drop_path_blocks)
        self._recipe, self._rank, self._world = recipe, rank, world
        self._accumulation = recipe.batch.accumulation_steps(world)
        self._dataset = dataset
        self.clips_in_manifest = len(self._dataset)
        """Clips of one epoch: videos x clips_per_video."""
        self.steps_per_epoch = self.clips_in_manifest // recipe.batch.global_
        if not self.steps_per_epoch:
            raise ConfigError(
                f"{data.manifest}: {len(dataset.source.refs)} videos x data.clips_per_video {data.clips_per_video} = "
                f"{self.clips_in_manifest} clips are fewer than batch.global {recipe.batch.global_}; lower batch.global"
            )
        self._running: Iterator[Any] | None = None
        if data.workers:
            _start_server()

    def batches(self, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        """Micro batches of steps ``first_step`` to ``last_step - 1``, each step in its accumulation steps.

        Raises:
            ConfigError: if no batch comes for ``data.stall_seconds``, a worker dies, or 20 videos in a row are bad.
        """
        loader = make_loader(self._dataset, _StepKeys(self, first_step, last_step, self._accumulation), self._recipe.data)
        self._running = checked_batches(loader, self._dataset.source, self._recipe.data)
        try:
            yield from self._running
        finally:
            self.close()

    def close(self) -> None:
        """End the workers."""
        if self._running is not None:
            running, self._running = self._running, None
            running.close()  # type: ignore[attr-defined]

    def keys(self, step: int, accumulation: int) -> list[ClipKey]:
        """Keys of this rank's micro batch."""
        batch = self._recipe.batch
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * batch.global_ + (accumulation * self._world + self._rank) * batch.micro
        return [ClipKey(epoch, position) for position in range(first, first + batch.micro)]


def evaluation_batches(
    data: DataSettings,
    manifest: Manifest,
    batch: int,
    frames: int,
    size_px: int,
    videos: Sequence[int] | None = None,
    faults: list[str] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every video once, in order: (clip uint8 (B, C, T, H, W), labels int64 (B, L), ok bool (B,)); the last batch may be smaller.

    Nothing is random: dense sampling starts at frame 0, uniform sampling takes the middle of each segment, the crop is
    the middle square. A video that cannot be read is a black clip with ``ok`` False.

    Args:
        data: reader, sampling and worker settings.
        manifest: the videos.
        batch: B.
        frames: T.
        size_px: H = W.
        videos: indices in the manifest to read, in this order; None reads all.
        faults: ``path: reason`` of every video that could not be read is appended here.

    Raises:
        ConfigError: if no batch comes for ``data.stall_seconds``, or a worker dies.
    """
    dataset = _EvaluationDataset(data, manifest, frames, size_px)
    wanted = list(range(len(manifest.refs))) if videos is None else list(videos)
    groups = [wanted[first : first + batch] for first in range(0, len(wanted), batch)]
    for clip, labels, ok, bad in checked_batches(make_loader(dataset, groups, data), dataset.source, data):
        if faults is not None:
            faults.extend(bad)
        yield clip, labels, ok


class _StepKeys:
    """Keys of all micro batches of a range of steps: the batch sampler of the DataLoader."""

    def __init__(self, loader: ClipLoader, first_step: int, last_step: int, accumulation: int) -> None:
        self._loader, self._steps, self._accumulation = loader, range(first_step, last_step), accumulation

    def __len__(self) -> int:
        return len(self._steps) * self._accumulation

    def __iter__(self) -> Iterator[list[ClipKey]]:
        for step in self._steps:
            for accumulation in range(self._accumulation):
                yield self._loader.keys(step, accumulation)


class _EvaluationDataset(Dataset[Any]):
    """One clip per video, always the same one."""

    def __init__(self, data: DataSettings, manifest: Manifest, frames: int, size_px: int) -> None:
        self._clip = data.clip
        self._frames, self._size_px = frames, size_px
        self._labels = manifest.labels
        self.source = VideoSource(manifest, data.reader, data.workers)

    def __getitems__(self, videos: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        clips = torch.zeros((len(videos), 3, self._frames, self._size_px, self._size_px), dtype=torch.uint8)
        ok = torch.ones(len(videos), dtype=torch.bool)
        faults = []
        for row, index in enumerate(videos):
            try:
                with self.source.open(index) as video:
                    sampler = SAMPLERS[self._clip.sampling]
                    frames = video.get(sampler(len(video), self._frames, self._clip.stride_frames, None))
            except DecodeError as error:
                faults.append(f"{self.source.refs.path(index)}: {error}")
                ok[row] = False
            else:
                clips[row] = cut(frames, center_box(frames.shape[1], frames.shape[2]), self._size_px)
        return clips, torch.from_numpy(self._labels[np.asarray(videos)]), ok, faults


def _start_server() -> Any:
    """The process that workers are forked from: it imports torch once for all of them, while the model is being built.

    Workers are not forked from the training process, whose CUDA context and threads would not survive it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    return context


def make_loader(dataset: Dataset[Any], keys: Any, data: DataSettings) -> DataLoader[Any]:
    """A DataLoader whose samplers' items are whole batches."""
    workers = min(data.workers, max(len(keys), 1))
    parallel = {
        "num_workers": workers,
        "timeout": min(_POLL_SECONDS, data.stall_seconds),
        "prefetch_factor": data.prefetch_batches,
        "multiprocessing_context": _start_server(),
        "worker_init_fn": _prepare_worker,
    }
    with warnings.catch_warnings():
        # The recipe says how many; on a machine with fewer cores they share them.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return DataLoader(
            dataset,
            batch_sampler=keys,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # not the global one, whose state belongs to the run
            **(parallel if workers else {}),
        )


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(number: int) -> None:
    """An interrupt from the keyboard is the training process's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def checked_batches(loader: DataLoader[Any], source: VideoSource, data: DataSettings) -> Iterator[Any]:
    """Batches of ``loader``; what goes wrong in a worker becomes one line that names the files being read.

    Raises:
        ConfigError: that line.
    """
    iterator = iter(loader)
    try:
        while (batch := _next(iterator, source, data)) is not None:
            if isinstance(batch, Failure):
                raise ConfigError(batch.message)
            yield batch
    finally:
        del iterator  # ends the workers


def _next(iterator: Iterator[Any], source: VideoSource, data: DataSettings) -> Any:
    """The next batch, or None at the end.

    Raises:
        ConfigError: if none comes for ``data.stall_seconds``, or a worker dies.
    """
    began = time.monotonic()
    while True:
        try:
            return next(iterator, None)
        except RuntimeError as error:
            waits = str(error).startswith("DataLoader timed out")
            if not waits or time.monotonic() - began >= data.stall_seconds:
                raise _explained(error, source, data) from None


def _explained(error: RuntimeError, source: VideoSource, data: DataSettings) -> Exception:
    reading = ", ".join(source.now_reading()) or "nothing yet"
    text = str(error)
    if text.startswith("DataLoader timed out"):
        return ConfigError(
            f"no batch came for data.stall_seconds {data.stall_seconds:g}; workers were reading: {reading}. Remove a video that "
            "hangs from the manifest, or raise data.stall_seconds if the disk is that slow"
        )
    if text.startswith("DataLoader worker"):
        return ConfigError(
            f"a loader process died ({one_line(error)}); workers were reading: {reading}. Memory or /dev/shm may be short: lower "
            "data.workers or data.prefetch_batches, or enlarge /dev/shm"
        )
    return error
