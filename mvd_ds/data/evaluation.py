"""Batches for evaluation: videos in order, always the same clips of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipSettings, DataSettings
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.video import DecodeError, Video
from mvd_ds.data.remote.needed import NeededFrames
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.source import VideoSource
from mvd_ds.data.transforms import center_box, cut
from mvd_ds.data.workers.quarantine import Barred, Quarantine
from mvd_ds.data.workers.shared_memory import TensorLayout
from mvd_ds.data.workers.stream import Filled, filled_batches
from mvd_ds.data.workers.workers import Reading


def evaluation_batches(
    data: DataSettings,
    manifest: Manifest,
    batch: int,
    frames: int,
    size_px: int,
    videos: Sequence[int] | None = None,
    faults: list[str] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield every video once, in order: (clip uint8 (B, C, T, H, W), labels int64 (B, L), ok bool (B,)).

    The last batch may be smaller.

    Nothing is random: dense sampling starts at frame 0, uniform sampling takes the middle of each segment, the crop is
    the middle square. A video that cannot be read, or ends the process that reads it, is a black clip with ``ok`` False.

    Args:
        data: reader, sampling and worker settings.
        manifest: the videos.
        batch: B.
        frames: T.
        size_px: H = W.
        videos: indices in the manifest to read, in this order; None reads all.
        faults: ``path: reason`` of every video that could not be read is appended here.

    Raises:
        ConfigError: if workers die again and again.
    """
    wanted = list(range(len(manifest.refs))) if videos is None else list(videos)
    groups = [wanted[first : first + batch] for first in range(0, len(wanted), batch)]
    for filled in middle_clips(data, manifest, groups, frames, size_px):
        if faults is not None:
            faults.extend(filled.faults)
        yield filled.arrays["clips"], filled.arrays["labels"], filled.arrays["ok"]


def middle_clips(
    data: DataSettings, manifest: Manifest, groups: Sequence[Sequence[int]], frames: int, size_px: int
) -> Iterator[Filled]:
    """Yield the clips of ``evaluation_batches``, a group of videos at a time, as ``batches_in_order`` does."""
    middle = partial(middle_clip, clip=data.clip, frames=frames, size_px=size_px)
    yield from batches_in_order(data, manifest, groups, (3, frames, size_px, size_px), middle)


def batches_in_order(
    data: DataSettings,
    manifest: Manifest,
    groups: Sequence[Sequence[int]],
    shape: tuple[int, ...],
    cut_video: Callable[..., Tensor],
    keys: Sequence[Any] | None = None,
) -> Iterator[Filled]:
    """Yield ``cut_video`` of every video of ``groups``, a group at a time, in this order.

    Args:
        data: reader and worker settings.
        manifest: the videos.
        groups: indices in the manifest; a batch each.
        shape: shape that ``cut_video`` returns.
        cut_video: from an opened video to uint8; it travels to the workers.
        keys: one for each video of all groups, which ``cut_video`` takes as ``key``; None: it takes the video alone.

    Yields:
        clips uint8 (B, *shape), black where a video could not be read; ok bool (B,), False there; labels int64 (B, L);
        videos int64 (B,); and the faults.

    Raises:
        ConfigError: if workers die again and again.
    """
    job = _VideosInOrder(data, manifest, [index for group in groups for index in group], shape, cut_video, keys)
    ends = np.cumsum([0, *(len(group) for group in groups)]).tolist()
    items = [range(first, end) for first, end in itertools.pairwise(ends)]
    yield from filled_batches(job, items, max(map(len, items), default=0), data, Quarantine())


class _VideosInOrder:
    """The workers' job for videos in order: item i is the i-th video that is wanted."""

    def __init__(
        self,
        data: DataSettings,
        manifest: Manifest,
        wanted: Sequence[int],
        shape: tuple[int, ...],
        cut_video: Callable[..., Tensor],
        keys: Sequence[Any] | None,
    ) -> None:
        self._source = VideoSource([manifest], data)
        self._wanted = np.asarray(wanted, np.int64)
        self._labels = manifest.labels
        self._cut_video, self._keys = cut_video, keys
        self.layout = {
            "clips": TensorLayout(shape, "uint8"),
            "ok": TensorLayout((), "bool"),
            "labels": TensorLayout(self._labels.shape[1:], "int64"),
            "videos": TensorLayout((), "int64"),
        }

    def path(self, video: int) -> str:
        return self._source.path(video)

    def fill(self, items: Sequence[int], rows: dict[str, np.ndarray], barred: Barred, reading: Reading) -> list[str]:
        videos = self._wanted[np.asarray(items, np.int64)]
        rows["videos"][:], rows["labels"][:], rows["ok"][:] = videos, self._labels[videos], True
        faults = []
        cuts = [self._cut_video if self._keys is None else partial(self._cut_video, key=self._keys[item]) for item in items]
        needed = [NeededFrames(item, cut_video) for item, cut_video in zip(items, cuts, strict=True)]
        self._source.expect(videos.tolist(), needed)
        for row, (item, video) in enumerate(zip(items, videos.tolist(), strict=True)):
            try:
                if reason := barred.reason(item, video):
                    raise DecodeError(reason)
                reading.begin(item, video)
                with self._source.open(video, needed[row]) as opened:
                    torch.from_numpy(rows["clips"][row]).copy_(cuts[row](opened))
            except DecodeError as error:
                faults.append(f"{self.path(video)}: {error}")
                rows["clips"][row], rows["ok"][row] = 0, False
            finally:
                reading.end()
        return faults


def middle_clip(video: Video, clip: ClipSettings, frames: int, size_px: int) -> Tensor:
    """Return the middle clip of ``video``, uint8 (C, T, size_px, size_px)."""
    clip = clip.model_copy(update={"frames": frames})
    images = video.get(frame_indices(len(video), clip, fps=video.fps))
    return cut(images, center_box(images.shape[1], images.shape[2]), size_px)
