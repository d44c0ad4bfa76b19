"""Preparing: facts, faults, new encodings, shards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.cli import main
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.inspection import inspect_file
from mvd_ds.data.prepare.shards import divide
from mvd_ds.data.readers.decode import open_video, read_frames
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.readers.scan import scan_file
from mvd_ds.data.readers.video import DecodeError
from video_files import all_frames, write_video


def prepare(*arguments: str | Path) -> int:
    return main(["prepare", *map(str, arguments), "--workers", "2"])


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def columns(manifest: Path) -> dict[str, dict[str, str]]:
    lines = manifest.read_text().splitlines()
    names = next(line for line in lines if line.startswith("# columns:")).split(": ")[1].split()
    labels = any(line.startswith("# labels:") for line in lines)
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {row[0]: dict(zip(names, row[1 + labels :], strict=True)) for row in rows}


def test_facts_and_faults(tree: Path, tmp_path: Path) -> None:
    before = state(tree)
    assert prepare(tree, tmp_path / "out", "--verify") == 0
    manifest = read_manifest(tmp_path / "out" / "train.txt")
    assert [Path(ref.path).relative_to(tree).as_posix() for ref in manifest.refs] == [
        "cat/cut short.mp4",
        "cat/plain.mp4",
        "dog/plain.webm",
        "dog/turned.1.mp4",
    ]
    assert manifest.labels[:, 0].tolist() == [0, 0, 1, 1] and manifest.class_names == {"label": ("cat", "dog")}
    facts = columns(tmp_path / "out" / "train.txt")
    assert facts["cat/plain.mp4"] == {
        "frames": "24",
        "fps": "30.0",
        "width": "128",
        "height": "96",
        "codec": "h264",
        "keyframes": "3",
        "rotation": "0",
        "edit_list": "0",
        "uneven": "0",
        "decord": "yes",
    }
    cut = facts["cat/cut short.mp4"]
    assert (cut["frames"], cut["edit_list"], cut["decord"]) == ("12", "1", "edit list")
    turned = facts["dog/turned.1.mp4"]
    assert (turned["width"], turned["height"]) == ("96", "128") and turned["rotation"] in ("90", "270")
    report = json.loads((tmp_path / "out" / "train" / "report.json").read_text())
    assert (report["videos"], report["good"]) == (6, 4) and set(report["broken"]) == {"dog/text.mp4", "dog/zeros.mp4"}
    assert "Invalid data" in report["broken"]["dog/text.mp4"]
    assert "dog/zeros.mp4: " in (tmp_path / "out" / "train" / "report.txt").read_text()
    assert state(tree) == before


def test_without_verify_only_the_beginning_is_decoded(tree: Path, tmp_path: Path) -> None:
    assert prepare(tree, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "train" / "report.json").read_text())["broken"].keys() == {"dog/text.mp4"}


def test_a_file_that_is_cut_off_is_named_at_the_first_look(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", frames=60, options={"g": "20"}, container={"movflags": "faststart"})
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(DecodeError, match="the file is cut off: 59 of the 60 frames its header lists are there"):
        inspect_file(str(tmp_path / "cut.mp4"), verify=False)
    assert inspect_file(str(whole), verify=False)["frames"] == 60


@pytest.mark.parametrize(("codec", "psnr"), [("h264", 34.0), ("mjpeg", 30.0)])
def test_encoded_videos_show_the_same_frames(tree: Path, tmp_path: Path, codec: str, psnr: float) -> None:
    assert prepare(tree, tmp_path / "out", "--verify", "--encode", codec, "--short-side", 80, "--group", 4) == 0
    manifest = read_manifest(tmp_path / "out" / "train.txt")
    assert len(manifest.refs) == 4
    for ref, name in zip(manifest.refs, ("cut short.mp4", "plain.mp4", "plain.webm", "turned.1.mp4"), strict=True):
        source = next(tree.rglob(name))
        with open_video(str(source)) as old, open_video(ref.path) as new:
            assert len(old) == len(new) and min(new.get(np.array([0])).shape[1:3]) == 80
        scan = scan_file(ref.path)
        assert not scan.edit_list and not scan.uneven and scan.keyframes == -(-scan.frames // (4 if codec == "h264" else 1))
    encode(str(tree / "cat/plain.mp4"), tmp_path / "same.mp4", Encoding(codec, 20 if codec == "h264" else 5))
    error = read_frames(str(tmp_path / "same.mp4"), np.arange(24)).astype(float) - all_frames(tree / "cat/plain.mp4")
    assert 10 * np.log10(255**2 / (error**2).mean()) > psnr


def test_shards_by_offset_and_by_webdataset(tree: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    assert prepare(tree, tmp_path / "out", "--shards", "--shard-mib", 1, "--verify") == 0
    manifest = read_manifest(tmp_path / "out" / "train.txt")
    for index, ref in enumerate(manifest.refs):
        location = manifest.refs.location(index)
        assert isinstance(location, ByteRange) and not Path(ref.path).exists()
        original = next(tree.rglob(Path(ref.path).name))
        for reader in ("auto", "decord") if original.name == "plain.webm" else ("auto",):
            with open_video(location, reader) as video, open_video(str(original)) as other:
                assert np.array_equal(video.get(np.arange(len(other))), other.get(np.arange(len(other))))
    shards = [str(path) for path in sorted((tmp_path / "out" / "train" / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    held = {json.loads(sample["json"])["name"]: sample for sample in samples}
    assert held.keys() == {os.path.relpath(ref.path, tmp_path / "out") for ref in manifest.refs}
    for name, sample in held.items():
        assert sample[Path(name).suffix[1:]] == (tree / name).read_bytes()
        assert int(sample["cls"]) == (name.startswith("dog"))


def test_shards_are_divided_by_size() -> None:
    assert divide([10, 10, 5000, 10], 6000) == [range(2), range(2, 3), range(3, 4)]
    assert divide([10, 10, 10], 10**6) == [range(3)] and divide([], 100) == []


def test_shards_of_encoded_videos_leave_nothing_else_and_can_be_prepared_again(tree: Path, tmp_path: Path) -> None:
    assert prepare(tree, tmp_path / "out", "--encode", "mjpeg", "--shards") == 0
    assert not (tmp_path / "out" / "train" / "videos").exists()
    assert prepare(tmp_path / "out" / "train.txt", tmp_path / "again", "--verify") == 0
    first, second = (read_manifest(tmp_path / name / "train.txt") for name in ("out", "again"))
    for index in range(len(first.refs)):
        one, two = first.refs.location(index), second.refs.location(index)
        assert isinstance(two, ByteRange) and two[1:3] == one[1:3]
        with open_video(two) as video:
            assert video.get(np.array([0])).shape[0] == 1


def test_a_video_listed_twice_keeps_both_labels(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{tree / 'cat/plain.mp4'}\t0\n{tree / 'cat/plain.mp4'}\t1\n")
    assert prepare(tmp_path / "list.txt", tmp_path / "out", "--encode", "mjpeg") == 0
    assert read_manifest(tmp_path / "out/train.txt").labels[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--short-side", "64"], "add --encode h264 or --encode mjpeg"),
        (["--encode", "mjpeg", "--quality", "40"], "--quality 40: mjpeg takes 2 to 31"),
    ],
)
def test_settings_that_say_nothing_are_refused(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert prepare(tree, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
