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


def uniform_indices(length: int, frames: int, stride: int, generator: np.random.Generator | None) -> np.ndarray:
    """One index, int64 (T,), from each of T equal segments of the video: random, or the segment's centre without a generator.

    A video of exactly T frames gives all of them, in order; ``stride`` is not used.

    Source: TSN, Wang et al. 2016.
    """
    edges = np.arange(frames) * (length / frames)
    offset = generator.random(frames) if generator is not None else 0.5
    return np.minimum((edges + offset * (length / frames)).astype(np.int64), length - 1)


SAMPLERS: dict[str, FramePicker] = {"dense": dense_indices, "uniform": uniform_indices}


def frame_indices(length: int, clip: ClipSettings, generator: np.random.Generator | None = None) -> np.ndarray:
    """Frame indices int64 (T,) of one clip from a video of ``length`` frames; without a generator always the same ones."""
    return SAMPLERS[clip.sampling](length, clip.frames, clip.stride_frames, generator)
