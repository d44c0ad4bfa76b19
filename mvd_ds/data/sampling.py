"""Which frames of a video make a clip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mvd_ds.config import ClipSettings

FramePicker = Callable[[int, int, int, np.random.Generator | None], np.ndarray]


def dense_indices(length: int, frames: int, stride: int, generator: np.random.Generator | None) -> np.ndarray:
    """``frames`` indices int64 (T,), ``stride`` apart, from a random start (from 0 without a generator).

    A video shorter than the clip starts at 0, goes on while the next index exists, and repeats the last reachable one.

    Source: MVD 1.6 and quirk Q18. Differs: all start positions are used, the reference never draws the last few (Q17).
    """
    starts = length - ((frames - 1) * stride + 1) + 1
    start = int(generator.integers(starts)) if generator is not None and starts > 1 else 0
    last_reachable = (length - 1 - start) // stride
    return start + stride * np.minimum(np.arange(frames), last_reachable)


def window_indices(length: int, frames: int, stride: int, generator: np.random.Generator | None) -> np.ndarray:
    """``frames`` indices int64 (T,), spread evenly over a random window of ``frames * stride`` (without a generator, the middle).

    Both ends of the window are aimed at, so that they are window / (T - 1) apart, 64/15 for 16 frames and stride 4, and the
    last is the window's last frame. A video no longer than the window gives length // stride frames spread over all of it
    and repeats its last one.

    Source: MVD 2.2, dense sampling of its fine-tuning. Differs: the last start position is used, too.
    """
    window = frames * stride
    if length <= window:
        spread = np.linspace(0, length, num=length // stride).astype(np.int64)
        return np.minimum(np.concatenate((spread, np.full(frames - len(spread), length))), length - 1)
    start = int(generator.integers(length - window + 1)) if generator is not None else (length - window) // 2
    return np.minimum(np.linspace(start, start + window, num=frames), start + window - 1).astype(np.int64)


def uniform_indices(length: int, frames: int, stride: int, generator: np.random.Generator | None) -> np.ndarray:
    """One index, int64 (T,), from each of T equal segments of the video: random, or the segment's centre without a generator.

    A video of exactly T frames gives all of them, in order; ``stride`` is not used.

    Source: TSN, Wang et al. 2016.
    """
    edges = np.arange(frames) * (length / frames)
    offset = generator.random(frames) if generator is not None else 0.5
    return np.minimum((edges + offset * (length / frames)).astype(np.int64), length - 1)


SAMPLERS: dict[str, FramePicker] = {"dense": dense_indices, "window": window_indices, "uniform": uniform_indices}


def frame_indices(length: int, clip: ClipSettings, generator: np.random.Generator | None = None) -> np.ndarray:
    """Frame indices int64 (T,) of one clip from a video of ``length`` frames; without a generator always the same ones."""
    return SAMPLERS[clip.sampling](length, clip.frames, clip.stride_frames, generator)
