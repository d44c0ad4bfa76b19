"""The dataset of fine-tuning: labelled clips by (epoch, position), augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipView, FinetuneRecipe
from mvd_ds.data.augmentation.augment import draw_mix, erase, partners
from mvd_ds.data.augmentation.rand_augment import rand_augment
from mvd_ds.data.batch import LabelledBatch
from mvd_ds.data.dataset import ClipKey, KeyedClips
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.manifests.mixture import Mixture
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.video import Video
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import cut, draw_box
from mvd_ds.data.workers.shared_memory import TensorLayout
from mvd_ds.data.workers.stream import Filled


class LabelledClips(KeyedClips):
    """Clips with the label of each, augmented as the recipe says; every number of it is a function of seed, epoch and position.

    The R clips of a video share its frames and differ in augmentation and crop. Source: repeated augmentation as in MVD's
    fine-tuning (``num_sample``).
    """

    def __init__(self, recipe: FinetuneRecipe, videos: Manifest | Mixture, labels: np.ndarray) -> None:
        """Take from ``recipe`` what a clip is; ``labels`` (n, ...) are those of all videos, as a ``LabelledBatch`` has them."""
        self._labels_of_videos = torch.from_numpy(labels)
        self._augmentation = recipe.augmentation
        self._width = recipe.model.embed_dim if recipe.dropout else 0
        super().__init__(recipe, videos, recipe.drop_path_blocks)

    def batch(self, filled: Filled) -> LabelledBatch:
        """Return the micro batch."""
        arrays, repeats = filled.arrays, self._data.clips_per_video
        clips = len(arrays["sample"])
        return LabelledBatch(
            views=self.views(filled),
            label=self._labels_of_videos[arrays["sample"]],
            partner=torch.from_numpy(partners(clips, repeats) if self._augmentation.mix else np.arange(clips)),
            faults=filled.faults,
            **{name: arrays[name] for name in ("flip", "own_share", "box", "drop_path", "dropout", "sample", "place")},
        )

    def _more_layout(self) -> dict[str, TensorLayout]:
        return {
            "own_share": TensorLayout((), "float32"),
            "box": TensorLayout((6,), "int64"),
            "dropout": TensorLayout((self._width,), "float32"),
        }

    def _more(self, key: ClipKey, video: int) -> dict[str, np.ndarray]:
        clip = self._data.clip
        mix = draw_mix(self._augmentation.mix, clip.frames, clip.size_px, self._pair_generator(key))
        dropout = self._generator("dropout", key).random(self._width, dtype=np.float32)
        return {"own_share": np.array(mix.own_share), "box": np.array(mix.box), "dropout": dropout}

    def _cut_clips(
        self, video: Video, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[ClipView, Tensor]]
    ) -> list[bool]:
        """Decode one clip of a video and write its augmentation under each key; return whether each is to be mirrored."""
        frames = video.get(frame_indices(len(video), self._data.clip, self._generator("view", keys[0]), video.fps))
        return [self._augment(frames, self._generator("augment", key), views) for key, views in zip(keys, outputs, strict=True)]

    def _augment(self, frames: np.ndarray, generator: np.random.Generator, views: dict[ClipView, Tensor]) -> bool:
        """Apply RandAugment, crop and erasing to one clip. An erased box is mirrored with its clip, which makes no difference."""
        clip, operations, erasing = self._data.clip, self._augmentation.rand_augment, self._augmentation.erasing
        if operations:
            frames = rand_augment(frames, operations, generator)
        box = draw_box(frames.shape[1], frames.shape[2], clip, generator)
        flip = bool(generator.random() < clip.flip)
        for view in views.values():
            view.copy_(cut(frames, box, view.shape[-1], False, clip.interpolation, clip.antialias))
            if erasing:
                erase(view, erasing, generator)
        return flip

    def _pair_generator(self, key: ClipKey) -> np.random.Generator:
        """Return a generator that is the same for both clips of a pair."""
        group, inside = divmod(key.position, 2 * self._data.clips_per_video)
        return keyed_generator(self._seed, "mix", key.epoch, group, inside % self._data.clips_per_video)
