"""Videos in order for evaluation: all of them once, and the bad ones marked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.data.manifests.manifest import read_manifest
from video_files import all_frames, recipe, write_video


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_every_video_once_in_order(twelve: Path, workers: int) -> None:
    manifest = read_manifest(twelve)
    data = recipe(twelve, data__workers=workers).data
    batches = list(evaluation_batches(data, manifest, batch=5, frames=4, size_px=40))
    assert [len(ok) for _, _, ok in batches] == [5, 5, 2]
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == [[n, n % 3] for n in range(12)]
    assert all(ok.all() and ok.dtype == torch.bool for _, _, ok in batches)
    clips = torch.cat([clip for clip, _, _ in batches])
    assert clips.shape == (12, 3, 4, 40, 40) and clips.dtype == torch.uint8
    for number, clip in enumerate(clips):
        frames = all_frames(twelve.parent / f"{number:02d}.mp4")[[0, 2, 4, 6 if number else 4], :, 8:48]
        assert torch.equal(clip, torch.from_numpy(frames).permute(3, 0, 1, 2))
    some = list(evaluation_batches(data, manifest, batch=5, frames=4, size_px=40, videos=[7, 2]))
    assert torch.equal(some[0][0], clips[[7, 2]])


def test_evaluation_marks_bad_videos_and_keeps_their_place(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", frames=4, width=48, height=48, seed=number)
    (tmp_path / "1.mp4").write_bytes(b"no video")
    faults: list[str] = []
    batches = evaluation_batches(recipe(tmp_path).data, read_manifest(tmp_path), 8, 4, 48, faults=faults)
    ((clip, labels, ok),) = batches
    assert ok.tolist() == [True, False, True]
    assert clip[1].max() == 0 and clip[2].max() > 0
    assert labels.shape == (3, 0)
    assert faults == [f"{tmp_path / '1.mp4'}: Invalid data found when processing input"]


def test_larger_frames_than_the_setting_allows_are_bad_videos(tmp_path: Path) -> None:
    for number, width in enumerate((48, 64)):
        write_video(tmp_path / f"{number}.mp4", frames=4, width=width, height=48)
    faults: list[str] = []
    data = recipe(tmp_path, data__max_pixels=48 * 48).data
    ((_, _, ok),) = evaluation_batches(data, read_manifest(tmp_path), 8, 4, 48, faults=faults)
    assert ok.tolist() == [True, False]
    assert faults == [f"{tmp_path / '1.mp4'}: its frames of 64 x 48 pixels are larger than data.max_pixels 2304"]
