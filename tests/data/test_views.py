"""The views of a test: the published clips and crops, any number of them, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvd_ds.config import ClipSettings, DataSettings
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.sampling import uniform_indices
from mvd_ds.data.transforms import Box, cut
from mvd_ds.data.views import crop_boxes, lockstep_groups, rank_groups, segment_indices, view_batches
from video_files import all_frames, write_video

DENSE = ClipSettings(frames=16, stride_frames=4)
UNIFORM = ClipSettings(frames=16, sampling="uniform")


def test_five_clips_of_kinetics() -> None:
    found = segment_indices(300, DENSE, 5)  # 75 strided frames: starts int(k * 59 / 4)
    assert (found[:, 0] / 4).tolist() == [0, 14, 29, 44, 59]
    assert (np.diff(found, axis=1) == 4).all()
    assert found[-1, -1] == 296, "the last clip ends at the last strided frame"


def test_two_clips_of_something_something() -> None:
    found = segment_indices(64, UNIFORM, 2)  # 32 parts of 2 frames, their middles; even ones, then odd ones
    assert found[0].tolist() == list(range(1, 64, 4))
    assert found[1].tolist() == list(range(3, 64, 4))
    assert sorted(found.flatten()) == [int((part + 0.5) * 2) for part in range(32)]


@pytest.mark.parametrize("length", [1, 7, 16, 61, 64, 300])
@pytest.mark.parametrize("segments", [1, 2, 3, 5])
@pytest.mark.parametrize("clip", [DENSE, UNIFORM])
def test_any_length_and_number(length: int, segments: int, clip: ClipSettings) -> None:
    found = segment_indices(length, clip, segments)
    assert found.shape == (segments, 16)
    assert found.min() >= 0 and found.max() < length
    assert (np.diff(found, axis=1) >= 0).all()


def test_one_clip_is_the_middle_one() -> None:
    assert segment_indices(300, DENSE, 1)[0, 0] == 29 * 4
    assert segment_indices(300, DENSE, 1).tolist() == segment_indices(300, DENSE, 3)[1:2].tolist()
    assert segment_indices(50, UNIFORM, 1)[0].tolist() == uniform_indices(50, 16, 1, None).tolist()


def test_short_videos_repeat_the_last_reachable_frame() -> None:
    assert segment_indices(10, DENSE, 2).tolist() == [[0, 4] + [8] * 14] * 2


def test_crops_go_along_the_long_side() -> None:
    assert crop_boxes(96, 128, 3) == [Box(0, 0, 96, 96), Box(0, 16, 96, 96), Box(0, 32, 96, 96)]
    assert crop_boxes(128, 96, 2) == [Box(0, 0, 96, 96), Box(32, 0, 96, 96)]
    assert crop_boxes(97, 128, 1) == [Box(0, 15, 97, 97)]
    assert crop_boxes(96, 96, 3) == [Box(0, 0, 96, 96)] * 3


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for number, frames in enumerate((40, 9, 25)):
        write_video(tmp_path / f"{number}.mp4", frames, seed=number)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "list.txt").write_text("0.mp4 3\nbroken.mp4 1\n1.mp4 2\n2.mp4 0\n")
    return tmp_path / "list.txt"


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_cut_from_the_files(manifest: Path, workers: int) -> None:
    clip = ClipSettings(frames=4, stride_frames=2, size_px=32)
    data = DataSettings(manifest=str(manifest), clip=clip, workers=workers)
    first, second = view_batches(data, read_manifest(manifest), [[0, 1], [3]], segments=2, crops=3)
    assert first.clips.shape == (2, 6, 3, 4, 32, 32) and second.clips.shape == (1, 6, 3, 4, 32, 32)
    assert first.ok.tolist() == [True, False] and second.ok.tolist() == [True]
    assert first.videos.tolist() == [0, 1] and first.labels.tolist() == [[3], [1]]
    assert [fault.split(": ")[0].rsplit("/", 1)[1] for fault in first.faults] == ["broken.mp4"]
    assert not first.clips[1].any()
    frames = all_frames(manifest.parent / "2.mp4")
    expected = [cut(frames[chosen], box, 32) for chosen in segment_indices(25, clip, 2) for box in crop_boxes(96, 128, 3)]
    assert torch.equal(second.clips[0], torch.stack(expected))


@pytest.mark.parametrize("count", [1, 7, 12, 100])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_has_one_place(count: int, world: int) -> None:
    shares = [rank_groups(count, 4, rank, world) for rank in range(world)]
    assert sorted(index for share in shares for group in share for index in group) == list(range(count))
    alone = rank_groups(count, 4, 0, 1)
    assert all(group in alone for share in shares for group in share), "the same batches on any number of processes"
    together = [lockstep_groups(count, 4, rank, world) for rank in range(world)]
    assert len({len(share) for share in together}) == 1
    assert all(len(group) == 4 for share in together for group, _ in share)
    assert sorted(index for share in together for group, real in share for index in group[:real]) == list(range(count))


def test_strides_in_seconds() -> None:
    clip = ClipSettings(frames=16, stride_seconds=4 / 30)
    assert segment_indices(300, clip, 5, fps=30.0).tolist() == segment_indices(300, DENSE, 5).tolist()
    found = segment_indices(150, clip, 3, fps=15.0)
    assert found[0].tolist() == list(range(0, 32, 2)) and found[-1, -1] == 148
