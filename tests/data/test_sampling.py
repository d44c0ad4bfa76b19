"""Which frames make a clip, against rules written a second time."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.config import ClipSettings
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.sampling import dense_indices, frame_indices, uniform_indices


def _short_clip(length: int, frames: int, stride: int) -> list[int]:
    """Go on only while the next frame exists, otherwise repeat (Q18)."""
    offset, chosen = 0, []
    for _ in range(frames):
        chosen.append(offset)
        if offset + stride < length:
            offset += stride
    return chosen


@pytest.mark.parametrize(("length", "frames", "stride"), [(1, 4, 2), (5, 4, 2), (6, 4, 2), (61, 16, 4), (30, 16, 4), (60, 16, 4)])
def test_short_videos_start_at_zero_and_repeat_the_last_reachable_frame(length: int, frames: int, stride: int) -> None:
    assert dense_indices(length, frames, stride, keyed_generator(0, "t")).tolist() == _short_clip(length, frames, stride)


def test_dense_clips_begin_anywhere_and_keep_their_stride() -> None:
    clips = np.stack([dense_indices(70, 16, 4, keyed_generator(0, "t", number)) for number in range(300)])
    assert (np.diff(clips, axis=1) == 4).all()
    assert set(clips[:, 0]) == set(range(10))  # the last start, 9, reaches frame 69
    assert dense_indices(70, 16, 4, None).tolist() == list(range(0, 64, 4))


@pytest.mark.parametrize("length", [48, 50, 16, 7, 1])
def test_uniform_takes_one_frame_of_each_equal_segment(length: int) -> None:
    edges = np.arange(17) * length / 16
    for number in range(100):
        chosen = uniform_indices(length, 16, 4, keyed_generator(0, "t", number))
        assert ((chosen >= np.floor(edges[:-1])) & (chosen < np.ceil(edges[1:]))).all()
        assert (np.diff(chosen) >= 0).all()
    centres = np.floor((edges[:-1] + edges[1:]) / 2).astype(int)
    assert uniform_indices(length, 16, 4, None).tolist() == centres.tolist()


def test_uniform_reaches_every_frame() -> None:
    chosen = np.stack([uniform_indices(12, 4, 1, keyed_generator(0, "t", number)) for number in range(200)])
    assert set(chosen.ravel()) == set(range(12))


def test_a_clip_as_long_as_the_video_is_the_video() -> None:
    for sampling in ("dense", "uniform"):
        clip = ClipSettings(frames=16, stride_frames=1, sampling=sampling)
        assert frame_indices(16, clip, keyed_generator(0, "t")).tolist() == list(range(16))
        assert frame_indices(16, clip).tolist() == list(range(16))
