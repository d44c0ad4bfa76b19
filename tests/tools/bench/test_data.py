"""The measurements measure what they say, and a ratio is printed only where it means something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.cli import main
from mvd_ds.config import ClipSettings, ConfigError
from mvd_ds.tools.bench import data as bench_data
from mvd_ds.tools.bench.data import DataBenchOptions, measure
from mvd_ds.tools.bench.data_table import _sentences
from mvd_ds.tools.bench.decode_stages import Clip, File, Stages, _frames_to_decode, look_at, median_stages
from mvd_ds.tools.bench.loader_rate import ReferenceClips
from mvd_ds.tools.bench.start import measure_start
from object_servers import ObjectServer
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


def test_medians_are_taken_stage_by_stage() -> None:
    assert median_stages([Stages(1, 9, 3), Stages(2, 7, 1), Stages(3, 8, 2)]) == Stages(2, 8, 2)


def test_the_reference_gives_two_equal_normalised_views(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=8, width=224, height=224)
    clip = ClipSettings(frames=4, stride_frames=2, size_px=224)
    student, teacher = ReferenceClips([str(path)], clip)[1]
    assert student.shape == (3, 4, 224, 224) and student.equal(teacher)
    whole = all_frames(path)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert abs(student.mean().item() - ((whole / 255 - mean) / deviation).mean()) < 0.3


def test_everything_is_measured_and_written(
    twelve_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out.json"
    few = ["--files", "3", "--clips", "8", "--rounds", "1", "--clips-per-second", "100", "--reference", "--output", str(output)]
    assert main(["bench", "data", twelve_videos.name, *SMALL, *few]) == 0
    said = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert set(result["streams"]) == {"as they are", "fastdecode", "mjpeg", "reference"}
    decord = result["readers"]["decord"]
    assert decord["clips"] == 0 and all("56 px wide" in reason for reason in decord["refused"].values()) and "total" not in decord
    assert "decord refuses 3 of 3 files, the first: " in said
    for reader in ("auto", "pyav"):
        row = result["readers"][reader]
        parts = [row[name] for name in ("open", "decode", "crop", "transport")]
        assert row["total"] == pytest.approx(sum(parts)) and row["decode"] > 0 and row["clips"] == 8
    plain = result["streams"]["as they are"]
    assert plain["cores_needed"] == pytest.approx(100 * plain["cpu_ms"] / 1000)
    assert "times_reference" not in plain and "No ratio to the reference pipeline" in said, "these videos are far smaller"
    assert all(result["streams"][kind]["mean_mb"] > 0 for kind in ("fastdecode", "mjpeg"))
    assert result["machine"]["cores"] and result["versions"]["av"]
    assert result["limits"] in {"open", "decode", "crop", "transport"} and result["limits"] in said


def test_files_that_cannot_be_read_are_named_and_not_measured(twelve_videos: Path) -> None:
    """One that is no video, and one that breaks off where it is decoded."""
    (twelve_videos / "bad.mp4").write_bytes(b"no video")
    zeros = bytearray((twelve_videos / "03.mp4").read_bytes())
    start, end = zeros.index(b"mdat") + 40, zeros.index(b"moov") - 4
    zeros[start:end] = bytes(end - start)
    (twelve_videos / "03.mp4").write_bytes(zeros)
    options = DataBenchOptions(files=13, clips=13, rounds=1, prepare=False)
    result = measure(twelve_videos, SMALL, options)
    assert result["unreadable"].keys() == {str(twelve_videos / name) for name in ("bad.mp4", "03.mp4")}
    assert result["files"]["measured"] == 11 and result["readers"]["auto"]["refused"] == {}
    for path in twelve_videos.iterdir():
        path.write_bytes(zeros)
    with pytest.raises(ConfigError, match=r"none of the videos drawn can be read, for example .*\.mp4: "):
        measure(twelve_videos, SMALL, options)


def test_no_ratio_to_a_reference_that_is_not_as_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is what it does for a clip; what the DataLoader takes to hand two fp32 views over differs between hosts."""
    monkeypatch.setattr(bench_data, "machine", dict)
    monkeypatch.setattr(bench_data, "versions", dict)
    recipe = bench_data.clip_recipe(Path("videos"), [])
    files = [File("a.mp4", 300, [0], 10**6)]
    stages = {"open": 1.0, "decode": 50.0, "crop": 2.0, "transport": 0.1}
    for alone, through, printed in ((120.0, 155.0, True), (99.0, 130.0, False), (141.0, 141.0, False)):
        streams = {
            "as they are": {"cpu_ms": 50.0, "times_reference": 2.4, "times_reference_by_cpu": 2.6},
            "reference": {"cpu_ms": through, "alone_ms": alone},
        }
        result = {"readers": {"auto": stages}, "streams": streams}
        found = bench_data._summed_up(recipe, files, {}, DataBenchOptions(reference=True), result)["streams"]["as they are"]
        assert ("times_reference" in found) == ("times_reference_by_cpu" in found) == printed


def test_the_way_to_the_first_batch(twelve_videos: Path) -> None:
    result = measure_start(twelve_videos, SMALL)
    assert result["lines"] == 12 and result["manifest_seconds"] > 0 and 10 < result["manifest_peak_mib"] < 200
    assert 0 < result["loader_to_first_batch_seconds"] < result["start_to_first_batch_seconds"]


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


def test_objects_that_are_elsewhere_are_fetched_first(
    twelve_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))
    (twelve_videos / "train.txt").write_text("".join(f"{number:02d}.mp4\n" for number in range(12)))
    server = ObjectServer(twelve_videos)
    options = DataBenchOptions(files=3, clips=3, rounds=1, prepare=False)
    result = measure(f"{server.address}/train.txt", SMALL, options)
    assert (result["files"]["measured"], result["copied"], result["unreadable"]) == (3, 3, {})
    assert "how fast they come is not measured" in " ".join(_sentences(result))
    assert measure(twelve_videos / "train.txt", SMALL, options)["copied"] == 0
    assert main(["bench", "data", f"{server.address}/none.txt"]) == 2
    assert f"{server.address}/none.txt: no such object" in capsys.readouterr().err
    server.kill()
