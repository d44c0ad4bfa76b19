"""The fixed views of clips: the crops that epochs take in turn, and the stream of all of them for ``cache-targets``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipView, TrainingRecipe
from mvd_ds.data.batch import view_name
from mvd_ds.data.cached.shown import fixed_view
from mvd_ds.data.dataset import ClipKey, KeyedClips
from mvd_ds.data.manifests.mixture import Mixture
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.workers.quarantine import Barred
from mvd_ds.data.workers.shared_memory import TensorLayout
from mvd_ds.data.workers.stream import Filled
from mvd_ds.data.workers.workers import Reading


class FixedBatch(NamedTuple):
    """A batch of crops of clips, not mirrored."""

    views: dict[ClipView, Tensor]
    """Every view, uint8 (B, C, T, H, W)."""
    items: Tensor
    """int64 (B,), clip * crops + crop."""
    ok: Tensor
    """bool (B,), False where the video could not be read."""
    faults: dict[int, str]
    """Reason by video."""


class FixedClips(KeyedClips):
    """All crops of all clips of the manifests, as the job of the loader's workers: item i is crop i % n of clip i // n.

    Args:
        recipe: the run, with ``targets.fixed_crops``.
        videos: the manifests.
    """

    def __init__(self, recipe: TrainingRecipe, videos: Mixture) -> None:
        assert recipe.targets.fixed_crops is not None
        self.crops = recipe.targets.fixed_crops
        super().__init__(recipe, videos, 0)

    def _layout(self) -> dict[str, TensorLayout]:
        return {
            **{view_name(view): TensorLayout(shape, "uint8") for view, shape in self.view_shapes.items()},
            "items": TensorLayout((), "int64"),
            "ok": TensorLayout((), "bool"),
        }

    def fill(self, items: Sequence[int], rows: dict[str, np.ndarray], barred: Barred, reading: Reading) -> list[str]:
        """Write the crops ``items``; those of one video in a row are cut from one decoding. Bad videos are black, not replaced.

        Returns:
            ``video: reason`` of every video that could not be read, the video by its number.
        """
        faults = []
        rows["items"][:], rows["ok"][:] = items, True
        parts = [(video, list(rows)) for video, rows in itertools.groupby(range(len(items)), lambda row: self.video(items[row]))]
        keys = [[ClipKey(*divmod(items[row], self.crops)) for row in part] for _, part in parts]
        videos = [video for video, _ in parts]
        self.source.expect(videos, list(map(self._needed, videos, keys)))
        for (video, part), own in zip(parts, keys, strict=True):
            outputs = [{view: torch.from_numpy(rows[view_name(view)][row]) for view in self.clip_views} for row in part]
            first = items[part[0]]
            try:
                if reason := barred.reason(first, video):
                    raise DecodeError(reason)
                reading.begin(first, video)
                self._read_clips(video, own, outputs)
            except DecodeError as error:
                faults.append(f"{video}: {error}")
                rows["ok"][part] = False
                for view in outputs:
                    for black in view.values():
                        black.zero_()
            finally:
                reading.end()
        return faults

    def _of_view(self, video: int, key: ClipKey) -> np.random.Generator:
        return fixed_view(self._seed, *key)  # the key is that of an item: its clip, and its crop

    def video(self, item: int) -> int:
        """Return the video of an item."""
        return item // self.crops // self._data.clips_per_video

    def batch(self, filled: Filled) -> FixedBatch:
        """Return the batch."""
        pairs = [fault.partition(": ") for fault in filled.faults]
        faults = {int(video): reason for video, _, reason in pairs}
        return FixedBatch(self.views(filled), filled.arrays["items"], filled.arrays["ok"], faults)
