"""Test views: several clips of a video and several crops of each, always the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipSettings, DataSettings
from mvd_ds.data.evaluation import batches_in_order
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.video import Video
from mvd_ds.data.sampling import multiples, stride_in_frames
from mvd_ds.data.transforms import Box, cut


class ViewBatch(NamedTuple):
    """All views of B videos."""

    clips: Tensor
    """uint8 (B, views, C, T, H, W), segment by segment, the crops of each from top or left; black where ``ok`` is False."""
    videos: Tensor
    """int64 (B,), index of each video in the manifest."""
    labels: Tensor
    """int64 (B, L), labels of each video."""
    ok: Tensor
    """bool (B,), False where the video could not be read."""
    faults: list[str]
    """``path: reason`` of each video that could not be read."""


def segment_indices(length: int, clip: ClipSettings, segments: int, fps: float = 0.0) -> np.ndarray:
    """Return the frames, int64 (segments, T), of each clip of a video of ``length`` frames, ``fps`` of them a second.

    dense: clips of the stride of ``clip``, from the first possible start to the last, evenly spaced; one clip is the middle
    one. A video too short for that repeats its last reachable frame.
    uniform: the middles of ``segments * T`` equal parts of the video, dealt out in turn: clip k gets parts k, k + segments, ...

    Source: MVD 2.3, 5 clips of Kinetics and 2 of Something-Something. Differs: any number of clips; the reference divides by
    zero for one, and has no more than two of the second kind (Q21, Q22).
    """
    frames = clip.frames
    if clip.sampling == "uniform":
        middles = (np.arange(frames * segments) + 0.5) * length / (frames * segments)
        return middles.astype(np.int64).reshape(frames, segments).T
    strided = multiples(stride_in_frames(length, clip, fps), length)
    strided = strided[strided < length]
    room = max(len(strided) - frames, 0)
    starts = [room * k // (segments - 1) for k in range(segments)] if segments > 1 else [room // 2]
    return strided[np.minimum(np.array(starts)[:, None] + np.arange(frames), len(strided) - 1)]


def crop_boxes(height: int, width: int, crops: int) -> list[Box]:
    """Return squares of the short side, evenly spaced along the long one; one is the middle. Source: MVD 2.3.

    Differs: they are resized with antialiasing, which the reference's OpenCV has not.
    """
    side, room = min(height, width), abs(height - width)
    offsets = [round(room * k / (crops - 1)) for k in range(crops)] if crops > 1 else [room // 2]
    return [Box(offset, 0, side, side) if height > width else Box(0, offset, side, side) for offset in offsets]


def cut_views(video: Video, clip: ClipSettings, segments: int, crops: int) -> Tensor:
    """Return uint8 (segments * crops, C, T, H, W) of an opened video, every frame decoded once.

    Raises:
        DecodeError: if a frame cannot be decoded.
    """
    indices = segment_indices(len(video), clip, segments, video.fps)
    needed, places = np.unique(indices, return_inverse=True)
    frames = video.get(needed)
    boxes = crop_boxes(frames.shape[1], frames.shape[2], crops)
    places = places.reshape(indices.shape)
    return torch.stack([cut(frames[chosen], box, clip.size_px) for chosen in places for box in boxes])


def view_batches(
    data: DataSettings, manifest: Manifest, groups: Sequence[Sequence[int]], segments: int = 1, crops: int = 1
) -> Iterator[ViewBatch]:
    """Yield all views of every video of ``groups``, a group at a time, in this order.

    Args:
        data: reader, workers, and the clip: frames, stride, size and sampling; its crop and flip are not used.
        manifest: the videos.
        groups: indices in the manifest; a batch each.
        segments: clips of a video.
        crops: crops of a clip.

    Raises:
        ConfigError: if workers die again and again.
    """
    clip = data.clip
    shape = (segments * crops, 3, clip.frames, clip.size_px, clip.size_px)
    views = partial(cut_views, clip=clip, segments=segments, crops=crops)
    for arrays, faults in batches_in_order(data, manifest, groups, shape, views):
        yield ViewBatch(arrays["clips"], arrays["videos"], arrays["labels"], arrays["ok"], faults)


def rank_groups(count: int, size: int, rank: int, world: int) -> list[range]:
    """Return this rank's share of ``count`` samples in groups of ``size``, dealt out in turn: each is in one group.

    The groups themselves do not depend on the number of processes, so a network computes the same batches, bit by bit.
    """
    return [range(first, min(first + size, count)) for first in range(rank * size, count, world * size)]


def lockstep_groups(count: int, size: int, rank: int, world: int) -> list[tuple[list[int], int]]:
    """Return as many groups of exactly ``size`` samples on every rank, each with the number of its first samples that count.

    For networks that are sharded, whose forwards are collective: a rank that has none left repeats the last sample, uncounted.
    """
    rounds = -(-count // (size * world))
    firsts = [(turn * world + rank) * size for turn in range(rounds)]
    return [([min(first + i, count - 1) for i in range(size)], min(max(count - first, 0), size)) for first in firsts]
