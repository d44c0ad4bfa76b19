"""Labelled clips by (epoch, position), augmented: what fine-tuning learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import FinetuneRecipe
from mvd_ds.data.augment import draw_mix, erase, partners
from mvd_ds.data.batch import LabelledBatch
from mvd_ds.data.dataset import ClipKey, KeyedClips
from mvd_ds.data.manifest import Manifest
from mvd_ds.data.rand_augment import rand_augment
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.transforms import cut, draw_box


class LabelledClips(KeyedClips):
    """Clips with the class of each, augmented as the recipe says; every number of it is a function of seed, epoch and position.

    The R clips of a video share its frames and differ in augmentation and crop. Source: repeated augmentation as in MVD's
    fine-tuning (``num_sample``).
    """

    def __init__(self, recipe: FinetuneRecipe, manifest: Manifest, labels: np.ndarray) -> None:
        """Take from ``recipe`` what a clip is; ``labels`` int64 (n,) are the classes of the manifest's videos."""
        super().__init__(recipe, manifest, recipe.drop_path_blocks)
        self._classes = labels
        self._augmentation = recipe.augmentation
        self._width = recipe.model.embed_dim if recipe.dropout else 0

    def _cut_clips(self, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[int, Tensor]]) -> None:
        """Decode one clip of video ``index`` and write what becomes of it under each key into ``outputs``."""
        clip = self._data.clip
        with self.source.open(index) as video:
            frames = video.get(frame_indices(len(video), clip, self._generator("view", keys[0])))
        for key, views in zip(keys, outputs, strict=True):
            generator = self._generator("augment", key)
            operations, erasing = self._augmentation.rand_augment, self._augmentation.erasing
            shown = rand_augment(frames, operations, generator) if operations else frames
            box = draw_box(shown.shape[1], shown.shape[2], clip, generator)
            flip = bool(generator.random() < clip.flip)
            (size, view), *_ = views.items()
            view.copy_(cut(shown, box, size, flip, clip.antialias))
            if erasing:
                erase(view, erasing, generator)

    def _batch(
        self, keys: Sequence[ClipKey], views: dict[int, Tensor], samples: np.ndarray, faults: list[str]
    ) -> LabelledBatch:
        clip = self._data.clip
        mixes = [draw_mix(self._augmentation.mix, clip.frames, clip.size_px, self._pair_generator(key)) for key in keys]
        partner = partners(len(keys), self._data.clips_per_video) if self._augmentation.mix else np.arange(len(keys))
        dropout = [self._generator("dropout", key).random(self._width, dtype=np.float32) for key in keys]
        return LabelledBatch(
            clip=views[clip.size_px],
            label=torch.from_numpy(self._classes[samples]),
            partner=torch.from_numpy(partner),
            own_share=torch.tensor([mix.own_share for mix in mixes], dtype=torch.float32),
            box=torch.tensor([mix.box for mix in mixes]),
            drop_path=torch.from_numpy(np.stack([self._uniforms(key) for key in keys])),
            dropout=torch.from_numpy(np.stack(dropout)),
            sample=torch.from_numpy(samples),
            faults=faults,
        )

    def _pair_generator(self, key: ClipKey) -> np.random.Generator:
        """The same for both clips of a pair."""
        group, inside = divmod(key.position, 2 * self._data.clips_per_video)
        return keyed_generator(self._seed, "mix", key.epoch, group, inside % self._data.clips_per_video)
