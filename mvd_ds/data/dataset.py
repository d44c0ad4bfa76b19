"""Clips by (epoch, position): no state, so any process, worker or restart makes the same clip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from mvd_ds.config import ConfigError, DataSettings, LearningRecipe, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.decode import READERS, open_again, open_video
from mvd_ds.data.manifest import Manifest
from mvd_ds.data.masking import draw_masks, split_tokens
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import CROPS, cut
from mvd_ds.data.video import DecodeError, Video

BAD_IN_A_ROW = 20
"""So many replacements of one sample in a row end the run: then it is not the videos, it is the disk or the path."""
_READER_NAMES = ("", *READERS)


class ClipKey(NamedTuple):
    """Which clip of the stream."""

    epoch: int
    position: int
    """Of the clip in its epoch."""


class Failure(NamedTuple):
    """Sent by a worker instead of a batch: the run ends with this line."""

    message: str


class VideoSource:
    """The videos of a manifest, opened by the right reader, with a note of what is being read."""

    def __init__(self, manifest: Manifest, reader: str, workers: int) -> None:
        """Keep ``manifest``; ``reader`` is ``data.reader``."""
        self.refs = manifest.refs
        self._reader = reader
        self._known = np.zeros(len(manifest.refs), np.uint8)
        self.reading = torch.full((max(workers, 1),), -1, dtype=torch.int64).share_memory_()
        """Index of the video that each worker is reading (-1: none), seen by all processes."""

    def open(self, index: int) -> Video:
        """Video number ``index``; scanned when this process opens it for the first time.

        Raises:
            DecodeError: if it cannot be opened.
        """
        worker = get_worker_info()
        self.reading[worker.id if worker is not None else 0] = index
        path = self.refs.path(index)
        if self._known[index]:
            return open_again(path, _READER_NAMES[self._known[index]])
        video = open_video(path, self._reader)
        self._known[index] = _READER_NAMES.index(video.reader)
        return video

    def now_reading(self) -> list[str]:
        """Paths being read, or read last, by the workers."""
        return [self.refs.path(index) for index in self.reading.tolist() if index >= 0]


class KeyedClips(Dataset[Any]):
    """Training clips, a micro batch at a time; what a batch holds beside its views is for subclasses to say."""

    def __init__(self, recipe: LearningRecipe, manifest: Manifest, drop_path_blocks: int) -> None:
        """Take from ``recipe`` what a clip is; ``drop_path_blocks`` uniforms are drawn per mask."""
        self._data: DataSettings = recipe.data
        self._masks_per_clip = recipe.masks_per_clip
        self._seed = recipe.run.seed
        self._blocks = drop_path_blocks
        self._labels = manifest.labels
        self.source = VideoSource(manifest, recipe.data.reader, recipe.data.workers)
        self.sizes_px = recipe.view_sizes_px
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.source.refs) * self._data.clips_per_video

    def __getitem__(self, key: ClipKey) -> Any:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[ClipKey]) -> Any:
        """The micro batch of ``keys``; with R clips per video, each R of them in a row belong to one video."""
        clip, clips = self._data.clip, len(keys)
        views = {size: torch.empty((clips, 3, clip.frames, size, size), dtype=torch.uint8) for size in self.sizes_px}
        samples = np.empty(clips, np.int64)
        faults: list[str] = []
        try:
            for first in range(0, clips, self._data.clips_per_video):
                rows = range(first, min(first + self._data.clips_per_video, clips))
                outputs = [{size: view[row] for size, view in views.items()} for row in rows]
                samples[rows.start : rows.stop] = self._fill([keys[row] for row in rows], outputs, faults)
        except ConfigError as error:
            return Failure(str(error))
        return self._batch(keys, views, samples, faults)

    @abstractmethod
    def _batch(self, keys: Sequence[ClipKey], views: dict[int, Tensor], samples: np.ndarray, faults: list[str]) -> Any:
        """The micro batch of ``keys``, whose views are cut; ``samples`` int64 (B,) are indices in the manifest."""

    def _generator(self, stream: str, key: ClipKey) -> np.random.Generator:
        return keyed_generator(self._seed, stream, key.epoch, key.position)

    def _uniforms(self, key: ClipKey) -> np.ndarray:
        """float32 (K, blocks); row k does not depend on how many follow it."""
        return self._generator("drop_path", key).random((self._masks_per_clip, self._blocks), dtype=np.float32)

    def _video_of(self, key: ClipKey) -> int:
        """Index in the manifest: the epoch's permutation of all videos, R positions each."""
        if self._order[0] != key.epoch:
            permutation = keyed_generator(self._seed, "order", key.epoch).permutation(len(self.source.refs))
            self._order = (key.epoch, permutation)
        return int(self._order[1][key.position // self._data.clips_per_video])

    def _fill(self, keys: Sequence[ClipKey], outputs: Sequence[dict[int, Tensor]], faults: list[str]) -> int:
        """Cut the clips of ``keys`` from their video, or from its first replacement that can be read; its index.

        Replacements are drawn from the sample's own key: nobody else's clips change.

        Raises:
            ConfigError: after 20 bad videos in a row.
        """
        video = self._video_of(keys[0])
        replacements = None
        bad: list[str] = []
        while True:
            try:
                self._cut_clips(video, keys, outputs)
            except DecodeError as error:
                bad.append(f"{self.source.refs.path(video)}: {error}")
            else:
                faults.extend(bad)
                return video
            if len(bad) == BAD_IN_A_ROW:
                raise ConfigError(
                    f"{BAD_IN_A_ROW} videos in a row cannot be read (check data.manifest and data.root): " + "; ".join(bad)
                )
            if replacements is None:
                replacements = self._generator("replacement", keys[0])
            video = int(replacements.integers(len(self.source.refs)))

    def _cut_clips(self, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[int, Tensor]]) -> None:
        """Decode video ``index`` once and write the views of each key into ``outputs``."""
        clip = self._data.clip
        generators = [self._generator("view", key) for key in keys]
        with self.source.open(index) as video:
            indices = [frame_indices(len(video), clip, generator) for generator in generators]
            needed = indices[0] if len(indices) == 1 else np.unique(np.concatenate(indices))
            frames = video.get(needed)
        for generator, chosen, views in zip(generators, indices, outputs, strict=True):
            part = frames if len(indices) == 1 else frames[np.searchsorted(needed, chosen)]
            box = CROPS[clip.crop](frames.shape[1], frames.shape[2], clip.size_px, generator)
            flip = bool(generator.random() < clip.flip)
            for size, view in views.items():
                view.copy_(cut(part, box, size, flip))


class ClipDataset(KeyedClips):
    """Training clips with their masks."""

    def __init__(self, recipe: TrainingRecipe, manifest: Manifest, drop_path_blocks: int) -> None:
        """Take from ``recipe`` what a clip and its masks are."""
        super().__init__(recipe, manifest, drop_path_blocks)
        self._masking, self._grid = recipe.masking, recipe.grid

    def _batch(self, keys: Sequence[ClipKey], views: dict[int, Tensor], samples: np.ndarray, faults: list[str]) -> ClipBatch:
        masks = np.stack([draw_masks(self._masking, self._grid, self._generator("mask", key)) for key in keys])
        visible, masked = split_tokens(masks.reshape(-1, masks.shape[-1]))
        drop_path = np.stack([self._uniforms(key) for key in keys])
        return ClipBatch(
            views=views,
            visible=torch.from_numpy(visible).view(len(keys), masks.shape[1], -1),
            masked=torch.from_numpy(masked).view(len(keys), masks.shape[1], -1),
            drop_path=torch.from_numpy(drop_path),
            labels=torch.from_numpy(self._labels[samples]),
            sample=torch.from_numpy(samples),
            faults=faults,
        )
