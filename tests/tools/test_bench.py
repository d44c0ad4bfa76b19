"""The measurements measure what they say, and a ratio is printed only where it means something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.cli import main
from mvd_ds.config import ClipSettings
from mvd_ds.tools.bench_data import Options, measure
from mvd_ds.tools.bench_reference import ReferenceClips
from mvd_ds.tools.bench_stages import Clip, File, Stages, _frames_to_decode, look_at, median_stages
from mvd_ds.tools.bench_start import measure_start
from video_files import all_frames, write_video

SMALL = ["data.clip.frames=4", "data.clip.stride_frames=1", "data.clip.size_px=32", "data.workers=1"]


@pytest.mark.parametrize(
    ("keys", "indices", "frames"),
    [
        ([0], [0, 4, 8], 9),  # from the only key frame to the last one wanted
        ([0, 20], [12, 16], 17),
        ([0, 20], [24, 28], 9),
        ([0, 20], [16, 24], 17 + 5),  # two groups, each from its key frame
        ([0, 20], [24, 16], 17 + 5),
        ([0, 20, 40], [5, 45], 6 + 6),
        (list(range(50)), [3, 7, 11], 3),  # every frame stands alone
    ],
)
def test_the_bound_counts_frames_from_the_key_frame(keys: list[int], indices: list[int], frames: int) -> None:
    assert _frames_to_decode(Clip(File("a.mp4", 50, keys, 1), np.array(indices))) == frames


def test_looking_at_a_file_finds_its_key_frames(tmp_path: Path) -> None:
    file = look_at(str(write_video(tmp_path / "a.mp4", frames=30, options={"g": "12", "sc_threshold": "0"})))
    assert (file.frames, file.keys) == (30, [0, 12, 24])
    assert file.bytes == (tmp_path / "a.mp4").stat().st_size


def test_medians_are_taken_stage_by_stage_and_a_refusal_stays() -> None:
    assert median_stages([Stages(1, 9, 3), Stages(2, 7, 1), Stages(3, 8, 2)]) == Stages(2, 8, 2)
    assert median_stages([Stages(1, 9, 3), "a.mp4: why"]) == "a.mp4: why"


def test_the_reference_gives_two_equal_normalised_views(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=8, width=224, height=224)
    clip = ClipSettings(frames=4, stride_frames=2, size_px=224)
    student, teacher = ReferenceClips([str(path)], clip)[1]
    assert student.shape == (3, 4, 224, 224) and student.equal(teacher)
    whole = all_frames(path)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert abs(student.mean().item() - ((whole / 255 - mean) / deviation).mean()) < 0.3


def test_everything_is_measured_and_written(twelve_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    few = ["--files", "3", "--clips", "8", "--rounds", "1", "--clips-per-second", "100", "--reference", "--output", str(output)]
    assert main(["bench", "data", str(twelve_videos), *SMALL, *few]) == 0
    said = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert set(result["streams"]) == {"as they are", "fastdecode", "mjpeg", "reference"}
    assert "56 px wide" in result["readers"]["decord"]["refused"]
    for reader in ("auto", "pyav"):
        row = result["readers"][reader]
        assert row["total"] == pytest.approx(row["open"] + row["decode"] + row["crop"]) and row["decode"] > 0
    plain = result["streams"]["as they are"]
    assert plain["cores_needed"] == pytest.approx(100 * plain["cpu_ms"] / 1000)
    assert "times_reference" not in plain and "No ratio to the reference pipeline" in said, "these videos are far smaller"
    assert result["machine"]["cores"] and result["versions"]["av"]
    assert result["limits"] in {"open", "decode", "crop", "transport"} and result["limits"] in said


def test_files_that_cannot_be_read_are_named(twelve_videos: Path) -> None:
    (twelve_videos / "bad.mp4").write_bytes(b"no video")
    options = Options(files=12, clips=4, rounds=1, prepare=False)
    assert list(measure(twelve_videos, SMALL, options)["unreadable"]) == [str(twelve_videos / "bad.mp4")]


def test_the_way_to_the_first_batch(twelve_videos: Path) -> None:
    result = measure_start(twelve_videos, SMALL)
    assert result["lines"] == 12 and 0 < result["manifest_seconds"] < result["start_to_first_batch_seconds"]


def test_workers_are_needed(twelve_videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", str(twelve_videos), "data.workers=0"]) == 2
    assert "data.workers 0" in capsys.readouterr().err


@pytest.fixture
def twelve_videos(tmp_path: Path) -> Path:
    """Twelve videos in a folder."""
    folder = tmp_path / "twelve"
    folder.mkdir()
    for number in range(12):
        write_video(folder / f"{number:02d}.mp4", frames=12, width=56, height=40, seed=number)
    return folder
