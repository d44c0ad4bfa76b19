"""Frame sampling: the indices of the frames of a video that make a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mvd_ds.config import ClipSettings, ClipView, OwnClip
from mvd_ds.data.readers.video import DecodeError, Video

FramePicker = Callable[[int, int, float, np.random.Generator | None], np.ndarray]


def dense_indices(length: int, frames: int, stride: float, generator: np.random.Generator | None) -> np.ndarray:
    """Return ``frames`` indices int64 (T,), ``stride`` apart, from a random start (from 0 without a generator).

    Of a stride that is no whole number, the frames are those that are shown at its multiples. A video shorter than the clip
    starts at 0, goes on while the next index exists, and repeats the last reachable one.

    Source: MVD 1.6 and quirk Q18. Differs: all start positions are used, the reference never draws the last few (Q17).
    """
    offsets = multiples(stride, frames)
    starts = length - int(offsets[-1])
    start = int(generator.integers(starts)) if generator is not None and starts > 1 else 0
    reachable = int(np.searchsorted(offsets, length - 1 - start, side="right"))
    return start + offsets[np.minimum(np.arange(frames), reachable - 1)]


def window_indices(length: int, frames: int, stride: float, generator: np.random.Generator | None) -> np.ndarray:
    """Return ``frames`` indices int64 (T,), spread evenly over a window of ``frames * stride``: random, or the middle.

    Both ends of the window are aimed at, so that they are window / (T - 1) apart, 64/15 for 16 frames and stride 4, and the
    last is the window's last frame. A video no longer than the window gives length // stride frames spread over all of it
    and repeats its last one.

    Source: MVD 2.2, dense sampling of its fine-tuning. Differs: the last start position is used, too.
    """
    window = round(frames * stride)
    if length <= window:
        spread = np.linspace(0, length, num=int(length / stride)).astype(np.int64)
        return np.minimum(np.concatenate((spread, np.full(frames - len(spread), length))), length - 1)
    start = int(generator.integers(length - window + 1)) if generator is not None else (length - window) // 2
    return np.minimum(np.linspace(start, start + window, num=frames), start + window - 1).astype(np.int64)


def uniform_indices(length: int, frames: int, stride: float, generator: np.random.Generator | None) -> np.ndarray:
    """Return one index, int64 (T,), from each of T equal segments: random, or the segment's centre without a generator.

    A video of exactly T frames gives all of them, in order; ``stride`` is not used.

    Source: TSN, Wang et al. 2016. Differs: MVD's segments are (length - 1) / T long with rounded ends, so that neighbours share
    the frame between them; these do not overlap.
    """
    edges = np.arange(frames) * (length / frames)
    offset = generator.random(frames) if generator is not None else 0.5
    return np.minimum((edges + offset * (length / frames)).astype(np.int64), length - 1)


SAMPLERS: dict[str, FramePicker] = {"dense": dense_indices, "window": window_indices, "uniform": uniform_indices}


def frame_indices(length: int, clip: ClipSettings, generator: np.random.Generator | None = None, fps: float = 0.0) -> np.ndarray:
    """Return frame indices int64 (T,) of one clip from a video of ``length`` frames, ``fps`` of them a second.

    Without a generator they are always the same ones.

    Raises:
        DecodeError: if the stride is in seconds and the frame rate is not known.
    """
    return SAMPLERS[clip.sampling](length, clip.frames, stride_in_frames(length, clip, fps), generator)


def own_clip_indices(indices: np.ndarray, own: OwnClip, length: int) -> np.ndarray:
    """Return the frames, int64 (own.frames,), of a view that has its own, of the moment of a clip's ``indices``, int64 (T,).

    The middles of both agree. Between the clip's frames time runs as they do; before its first and after its last as it does on
    average, up to the ends of the video of ``length`` frames, which are repeated.
    """
    last = len(indices) - 1
    places = own.step * (np.arange(own.frames) - (own.frames - 1) / 2) + last / 2
    outside = np.minimum(places, 0) + np.maximum(places - last, 0)
    frames = np.interp(places, np.arange(len(indices)), indices) + outside * (indices[-1] - indices[0]) / max(last, 1)
    return np.clip(np.floor(frames + 0.5), 0, length - 1).astype(np.int64)


def stride_in_frames(length: int, clip: ClipSettings, fps: float) -> float:
    """Return the step from one sampled frame to the next; a whole number unless ``clip`` gives it in seconds.

    Raises:
        DecodeError: if it does, and the frame rate is not known.
    """
    if clip.stride_seconds is None or length == 1:
        return clip.stride_frames
    if fps <= 0:
        raise DecodeError("its frame rate is not known; give data.clip.stride_frames in place of stride_seconds")
    return clip.stride_seconds * fps


def multiples(stride: float, count: int) -> np.ndarray:
    """Return int64 (count,): 0, stride, 2 * stride, ... rounded down, but for what floats lack to a whole number."""
    return np.floor(np.arange(count) * stride + 1e-6).astype(np.int64)


def decoded_views(
    video: Video, clip: ClipSettings, views: Sequence[ClipView], generators: Sequence[np.random.Generator]
) -> list[dict[ClipView, np.ndarray]]:
    """Return the frames uint8 (T, H, W, C) of each view of each clip of a video, all decoded by one call.

    Args:
        video: an opened video.
        clip: the recipe's clip.
        views: the views; those with the same frames share an array.
        generators: one for each clip, which draws its start.
    """
    indices = [frame_indices(len(video), clip, generator, video.fps) for generator in generators]
    own = [view for view in views if isinstance(view, OwnClip)]
    others = [{view: own_clip_indices(chosen, view, len(video)) for view in own} for chosen in indices]
    wanted = [*indices, *(chosen for clips in others for chosen in clips.values())]
    needed = wanted[0] if len(wanted) == 1 else np.unique(np.concatenate(wanted))
    frames = video.get(needed)

    def take(chosen: np.ndarray) -> np.ndarray:
        return frames if chosen is needed else frames[np.searchsorted(needed, chosen)]

    return [
        {view: take(more[view] if isinstance(view, OwnClip) else chosen) for view in views}
        for chosen, more in zip(indices, others, strict=True)
    ]
