"""Datasets of clips by their place in the stream, without state: any process, worker or restart makes the same clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipView, ConfigError, DataSettings, LearningRecipe, TrainingRecipe
from mvd_ds.data.batch import ClipBatch, view_name
from mvd_ds.data.cached.shown import FixedViews
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.manifests.mixture import Mixture, VideoOrder
from mvd_ds.data.manifests.partly_labelled import class_numbers_of
from mvd_ds.data.masking_batch import mask_arrays, mask_layout
from mvd_ds.data.picture_sources import PictureSources
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.video import DecodeError, Video
from mvd_ds.data.remote.needed import NeededFrames
from mvd_ds.data.sampling import decoded_views
from mvd_ds.data.source import VideoSource
from mvd_ds.data.tokens import caption_tokens
from mvd_ds.data.transforms import cut, draw_box
from mvd_ds.data.workers.quarantine import Barred
from mvd_ds.data.workers.shared_memory import TensorLayout
from mvd_ds.data.workers.stream import Filled
from mvd_ds.data.workers.workers import Reading

BAD_IN_A_ROW = 20
"""Replacements of one sample in a row that end the run: so many bad videos mean that the disk or the path is at fault."""


class ClipKey(NamedTuple):
    """The key of a clip: its epoch and its position there."""

    epoch: int
    position: int
    """Number of the clip in its epoch."""


class KeyedClips(ABC):
    """Training clips, as the job of the loader's workers. Subclasses say what a clip has beside its views.

    A clip's place in the stream is one integer, ``epoch * clips_per_epoch + position``. Everything that is drawn for it is
    keyed by that place and the seed.
    """

    def __init__(self, recipe: LearningRecipe, videos: Manifest | Mixture, drop_path_blocks: int) -> None:
        """Take from ``recipe`` what a clip is; ``drop_path_blocks`` uniforms are drawn per mask."""
        mixture = videos if isinstance(videos, Mixture) else Mixture((videos,), (1.0,))
        self._data: DataSettings = recipe.data
        self._masks_per_clip = recipe.masks_per_clip
        self._seed = recipe.run.seed
        self._blocks = drop_path_blocks
        self._labels = self._labels_of(mixture)
        self.mixture = mixture
        self.source = VideoSource(mixture.manifests, recipe.data)
        self.order = VideoOrder(self._seed, [len(manifest.refs) for manifest in mixture.manifests], mixture.weights)
        self.clip_views = recipe.clip_views
        self.clips_per_epoch = len(self) // recipe.batch.global_ * recipe.batch.global_
        """Clips of an epoch, in whole steps."""
        self.layout = self._layout()
        """Arrays of a batch, one row a clip."""

    def __len__(self) -> int:
        """Return the number of clips of all videos."""
        return len(self.source) * self._data.clips_per_video

    def path(self, video: int) -> str:
        """Return the path of a video, for messages."""
        return self.source.path(video)

    def fill(self, items: Sequence[int], rows: dict[str, np.ndarray], barred: Barred, reading: Reading) -> list[str]:
        """Write the clips at the places ``items``; with R clips per video, each R of them in a row belong to one video.

        Returns:
            ``path: reason`` of every video that was replaced.

        Raises:
            ConfigError: after 20 bad videos in a row.
        """
        faults: list[str] = []
        step = self._data.clips_per_video
        parts = [slice(first, first + step) for first in range(0, len(items), step)]
        expected = [self._video(items[part.start]) for part in parts]
        keys = [[self.key(place) for place in items[part]] for part in parts]
        self.source.expect(expected, list(map(self._needed, expected, keys)))
        for part in parts:
            chosen = range(len(items))[part]
            views = [{view: torch.from_numpy(rows[view_name(view)][row]) for view in self.clip_views} for row in chosen]
            rows["sample"][part], rows["flip"][part] = self._fill(items[part], views, barred, reading, faults)
        rows["place"][:] = items
        rows["labels"][:] = self._labels[rows["sample"]]
        for row, item in enumerate(items):
            key = self.key(item)
            rows["drop_path"][row] = self._uniforms(key)
            for name, value in self._more(key, int(rows["sample"][row])).items():
                rows[name][row] = value
        return faults

    @abstractmethod
    def batch(self, filled: Filled) -> Any:
        """Return the training process's batch: the arrays of ``layout`` as tensors, with names."""

    def _labels_of(self, mixture: Mixture) -> np.ndarray:
        """Return the labels of every video, int64 (n, L)."""
        return mixture.labels

    def _more_layout(self) -> dict[str, TensorLayout]:
        """Return the layout of arrays beside those that all clips have."""
        return {}

    def _more(self, key: ClipKey, video: int) -> dict[str, np.ndarray]:
        """Return the values of those arrays for one clip, which is of the video of this number."""
        return {}

    def _layout(self) -> dict[str, TensorLayout]:
        return {
            **{view_name(view): TensorLayout(shape, "uint8") for view, shape in self.view_shapes.items()},
            "flip": TensorLayout((), "bool"),
            "drop_path": TensorLayout((self._masks_per_clip, self._blocks), "float32"),
            "labels": TensorLayout(self._labels.shape[1:], "int64"),
            "sample": TensorLayout((), "int64"),
            "place": TensorLayout((), "int64"),
            **self._more_layout(),
        }

    @property
    def view_shapes(self) -> dict[ClipView, tuple[int, ...]]:
        """Shape (C, T, H, W) of every view."""
        seen = {view: self._data.clip.seen_as(view) for view in self.clip_views}
        return {view: (3, clip.frames, clip.size_px, clip.size_px) for view, clip in seen.items()}

    def views(self, filled: Filled) -> dict[ClipView, Tensor]:
        """Return the views of a batch, uint8 (B, C, T, H, W)."""
        return {view: filled.arrays[view_name(view)] for view in self.clip_views}

    def key(self, place: int) -> ClipKey:
        """Return epoch and position of a place in the stream."""
        return ClipKey(*divmod(place, self.clips_per_epoch))

    def _video(self, place: int) -> int:
        """Return the video that the clip at ``place`` is to be cut from."""
        key = self.key(place)
        return self.order.video(key.epoch, key.position // self._data.clips_per_video)

    def _generator(self, stream: str, key: ClipKey) -> np.random.Generator:
        return keyed_generator(self._seed, stream, key.epoch, key.position)

    def _uniforms(self, key: ClipKey) -> np.ndarray:
        """Draw float32 (K, blocks); row k does not depend on how many follow it."""
        return self._generator("drop_path", key).random((self._masks_per_clip, self._blocks), dtype=np.float32)

    def _fill(
        self,
        places: Sequence[int],
        outputs: Sequence[dict[ClipView, Tensor]],
        barred: Barred,
        reading: Reading,
        faults: list[str],
    ) -> tuple[int, list[bool]]:
        """Cut the clips at ``places`` from their video, or from its first replacement that can be read.

        Replacements are drawn from the sample's own key: nobody else's clips change.

        Returns:
            The index of the video, and which clips are to be mirrored.

        Raises:
            ConfigError: after 20 bad videos in a row.
        """
        keys = [self.key(place) for place in places]
        video = self._video(places[0])
        replacements = None
        bad: list[str] = []
        while True:
            try:
                if reason := barred.reason(places[0], video):
                    raise DecodeError(reason)
                reading.begin(places[0], video)
                flips = self._read_clips(video, keys, outputs)
            except DecodeError as error:
                bad.append(f"{self.path(video)}: {error}")
            else:
                faults.extend(bad)
                return video, flips
            finally:
                reading.end()
            if len(bad) == BAD_IN_A_ROW:
                shown = [*bad[:3], f"and {BAD_IN_A_ROW - 3} more"]
                raise ConfigError(
                    f"{BAD_IN_A_ROW} videos in a row cannot be read (check data.manifest and data.root): {'; '.join(shown)}"
                )
            if replacements is None:
                replacements = self._generator("replacement", keys[0])
            video = self.order.replacement(video, replacements)

    def _of_view(self, video: int, key: ClipKey) -> np.random.Generator:
        """Return what draws the view of a clip: its moment, its box, and whether it is mirrored."""
        return self._generator("view", key)

    def _needed(self, index: int, keys: Sequence[ClipKey]) -> NeededFrames:
        """Return the frames of video ``index`` that the clips of ``keys`` are cut from."""
        return NeededFrames(keys[0], lambda video: self._cut_clips(video, index, keys, ()))

    def _read_clips(self, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[ClipView, Tensor]]) -> list[bool]:
        """Open video ``index`` and do ``_cut_clips``."""
        for key in keys:
            self._of_view(index, key)  # says of a clip that is not to be shown why, before its file is opened
        with self.source.open(index, self._needed(index, keys)) as video:
            return self._cut_clips(video, index, keys, outputs)

    def _cut_clips(
        self, video: Video, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[ClipView, Tensor]]
    ) -> list[bool]:
        """Decode ``video``, number ``index``, once; write the views of each key; return whether each is to be mirrored."""
        generators = [self._of_view(index, key) for key in keys]
        clips = decoded_views(video, self._data.clip, self.clip_views, generators)
        return [self._cut(*given) for given in zip(clips, generators, outputs, strict=True)]

    def _cut(self, frames: dict[ClipView, np.ndarray], generator: np.random.Generator, views: dict[ClipView, Tensor]) -> bool:
        """Write the views of one clip, ``frames`` uint8 (T, H, W, C) of each; return whether the device is to mirror them."""
        clip = self._data.clip
        height, width = frames[clip.size_px].shape[1:3]
        box = draw_box(height, width, clip, generator)
        flip = bool(generator.random() < clip.flip)
        for name, view in views.items():
            view.copy_(cut(frames[name], box, view.shape[-1], False, clip.interpolation, clip.antialias))
        return flip


class ClipDataset(KeyedClips):
    """Training clips with their masks, or with the random numbers of masks that are drawn on the device."""

    def __init__(self, recipe: TrainingRecipe, videos: Manifest | Mixture, drop_path_blocks: int) -> None:
        """Take from ``recipe`` what a clip and its masks are."""
        self._masking, self._grid, self._predicted = recipe.masking, recipe.grid, recipe.predicted_tokens
        self._mask_layout = mask_layout(recipe, recipe.masking)
        self._label_settings, self._pictures = recipe.labels, PictureSources(recipe)
        self._fixed = FixedViews(recipe) if recipe.targets.fixed_crops is not None else None
        self._dropped_teachers = len(recipe.teachers) if recipe.drop_teachers else 0
        self._tokens = caption_tokens(recipe.language, videos.manifests if isinstance(videos, Mixture) else (videos,))
        super().__init__(recipe, videos, drop_path_blocks)

    def batch(self, filled: Filled) -> ClipBatch:
        """Return the micro batch."""
        arrays = {name: array for name, array in filled.arrays.items() if name in ClipBatch._fields}
        if self._masking.is_scored:
            none = torch.empty(len(filled.arrays["place"]), self._masks_per_clip, 0, dtype=torch.int64)
            arrays |= {"visible": none, "masked": none}
        cached = None if self._fixed is None else self._fixed.targets(filled.arrays)
        return ClipBatch(views=self.views(filled), faults=filled.faults, cached=cached, **arrays)

    def _labels_of(self, mixture: Mixture) -> np.ndarray:
        """Return the class of every video for a class head, int64 (n, 1), where the recipe has one.

        Raises:
            ConfigError: if no video has a class, or there are others than the recipe's.
        """
        if self._label_settings is None:
            return mixture.labels
        origins = [manifest.source for manifest in mixture.manifests]
        by_position, settings = self._data.classes_by_position, self._label_settings
        return class_numbers_of(mixture.manifests, origins, settings, by_position)[:, None]

    def fill(self, items: Sequence[int], rows: dict[str, np.ndarray], barred: Barred, reading: Reading) -> list[str]:
        """Write the clips at the places ``items``, and what is cached of them; see ``KeyedClips``."""
        faults = super().fill(items, rows, barred, reading)
        if self._fixed is not None:
            self._fixed.fill(rows, [self.key(item) for item in items])
        return faults

    def _of_view(self, video: int, key: ClipKey) -> np.random.Generator:
        return super()._of_view(video, key) if self._fixed is None else self._fixed.generator(video, key)

    def _more_layout(self) -> dict[str, TensorLayout]:
        layout = {name: TensorLayout(*layout) for name, layout in self._mask_layout.items()}
        layout |= self._pictures.layout | ({} if self._fixed is None else self._fixed.layout)
        if self._dropped_teachers:
            layout["teacher_uniforms"] = TensorLayout((self._masks_per_clip, self._dropped_teachers), "float32")
        if self._tokens is not None:
            layout["captions"] = TensorLayout((self._tokens.context,), "int64")
        return layout

    def _more(self, key: ClipKey, video: int) -> dict[str, np.ndarray]:
        generators = (self._generator(stream, key) for stream in ("mask", "decoder_mask"))
        arrays = mask_arrays(self._masking, self._grid, self._predicted, *generators)
        arrays |= self._pictures.arrays(self.order, *key, video)
        if self._dropped_teachers:
            # One row for each teacher, so that one more at the end changes nothing for the others.
            shape = (self._dropped_teachers, self._masks_per_clip)
            arrays["teacher_uniforms"] = self._generator("drop_teachers", key).random(shape, np.float32).T
        if self._tokens is not None:
            captions = self.source.captions(video)
            arrays["captions"] = self._tokens.encode(captions[self._generator("caption", key).integers(len(captions))])
        return arrays
