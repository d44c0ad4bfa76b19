"""Which frames make a clip, against rules written a second time."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.config import ClipSettings, OwnClip
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.sampling import dense_indices, frame_indices, own_clip_indices, uniform_indices, window_indices


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


def test_a_window_is_sixteen_frames_sixty_four_fifteenths_apart() -> None:
    starts = set()
    for number in range(400):
        chosen = window_indices(80, 16, 4, keyed_generator(0, "t", number))
        assert chosen[-1] - chosen[0] == 63, "the last index of 0 to 64 is clipped"
        expected = [min(int(chosen[0] + i * 64 / 15 + 1e-9), chosen[0] + 63) for i in range(16)]
        assert chosen.tolist() == expected
        starts.add(int(chosen[0]))
    assert starts == set(range(17)), "from the first frame to the last"
    assert window_indices(80, 16, 4, None)[0] == 8


@pytest.mark.parametrize(("length", "spread"), [(64, 16), (40, 10), (9, 2), (3, 0)])
def test_a_video_shorter_than_the_window_is_covered_and_its_last_frame_repeated(length: int, spread: int) -> None:
    chosen = window_indices(length, 16, 4, keyed_generator(0, "t")).tolist()
    expected = [min(int(i * length / (spread - 1) + 1e-9), length - 1) for i in range(spread)]
    assert chosen == expected + [length - 1] * (16 - spread)


@pytest.mark.parametrize("fps", [12.0, 24.0, 25.0, 29.97, 30.0, 60.0])
def test_a_stride_in_seconds_shows_the_same_times_at_any_frame_rate(fps: float) -> None:
    clip = ClipSettings(frames=8, stride_seconds=0.15)
    for number in range(30):
        indices = frame_indices(300, clip, keyed_generator(0, "t", number), fps)
        shown = (indices - indices[0]) / fps
        wanted = np.arange(8) * 0.15
        assert (shown <= wanted + 1e-6).all() and (shown > wanted - 1 / fps - 1e-6).all(), "the frame on show at that time"
        assert indices.min() >= 0 and indices.max() < 300
    reached = {int(frame_indices(300, clip, keyed_generator(0, "t", number), fps)[-1]) for number in range(3000)}
    assert max(reached) == 299 and min(reached) == int(7 * 0.15 * fps + 1e-6)


def test_whole_strides_in_seconds_equal_strides_in_frames() -> None:
    seconds, frames = ClipSettings(frames=16, stride_seconds=4 / 30), ClipSettings(frames=16, stride_frames=4)
    for length in (5, 61, 300):
        for number in range(20):
            generators = [keyed_generator(0, "t", number) for _ in range(2)]
            one, other = frame_indices(length, seconds, generators[0], 30.0), frame_indices(length, frames, generators[1])
            assert one.tolist() == other.tolist()


def test_short_videos_repeat_the_last_frame_that_a_stride_in_seconds_reaches() -> None:
    clip = ClipSettings(frames=5, stride_seconds=0.1)
    assert frame_indices(4, clip, None, 15.0).tolist() == [0, 1, 3, 3, 3]
    assert frame_indices(1, clip, None, 0.0).tolist() == [0] * 5, "an image has no rate and needs none"


def test_without_a_frame_rate_there_are_no_seconds() -> None:
    with pytest.raises(DecodeError, match=r"frame rate is not known; give data.clip.stride_frames"):
        frame_indices(30, ClipSettings(stride_seconds=0.1), None, 0.0)


@pytest.mark.parametrize(
    ("indices", "own", "expected"),
    [
        ([10, 14, 18, 22], (4, 1.0), [10, 14, 18, 22]),
        ([10, 14, 18, 22], (8, 0.5), [9, 11, 13, 15, 17, 19, 21, 23]),
        ([10, 14, 18, 22], (2, 2.0), [12, 20]),
        ([10, 14, 18, 22], (4, 3.0), [0, 10, 22, 29]),
        ([0, 4, 4, 4], (8, 0.5), [0, 1, 3, 4, 4, 4, 4, 4]),
        ([0, 1, 8, 9], (4, 0.5), [1, 3, 6, 8]),
    ],
    ids=["the same", "twice as many", "half as many", "three times as long", "a video that ends", "uneven times"],
)
def test_frames_of_a_clips_own_have_its_moment(indices: list[int], own: tuple[int, float], expected: list[int]) -> None:
    """The middle of all is that of the clip; ends of the video are repeated."""
    found = own_clip_indices(np.array(indices), OwnClip(32, *own), 30)
    assert found.tolist() == expected
