"""Preparing that was stopped, killed or refused: what is done counts, what is half done, lost or changed does not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import av
import numpy as np
import pytest

from mvd_ds.cli import main
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare import jobs as jobs_module
from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.journal import Journal
from mvd_ds.data.prepare.process_pool import Fault
from mvd_ds.data.readers.decode import open_video

ROOT = Path(__file__).resolve().parents[3]


def prepare(*arguments: str | Path) -> int:
    return main(["prepare", *map(str, arguments), "--workers", "2"])


def test_killed_at_any_time_it_goes_on(plain: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(30):  # so that there is something left to do when the first one is done
        (tree / f"{number:02d}.mp4").write_bytes(plain.read_bytes())
    arguments = [str(tree), str(tmp_path / "out"), "--encode", "h264", "--shards", "--workers", "1"]
    whole = tmp_path / "whole"
    assert main(["prepare", str(tree), str(whole), *arguments[2:]]) == 0
    command = [sys.executable, "-m", "mvd_ds", "prepare", *arguments]
    seen = set()
    for watched in ("looked.jsonl", "encoded.jsonl"):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not (tmp_path / "out/train/.prepare" / watched).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add((tmp_path / "out" / "train.txt").exists())
    assert seen == {False}, "killed before its end"
    with open(tmp_path / "out/train/.prepare/looked.jsonl", "ab") as file:
        file.write(b'{"name": "half a li')
    (tmp_path / "out" / "train" / "shards").mkdir(exist_ok=True)
    (tmp_path / "out/train/shards/000000.tar").write_bytes(b"a shard without its sidecar")
    assert main(["prepare", *arguments]) == 0
    assert (tmp_path / "out" / "train.txt").read_bytes() == (whole / "train.txt").read_bytes()
    with (
        tarfile.open(tmp_path / "out/train/shards/000000.tar") as ours,
        tarfile.open(whole / "train/shards/000000.tar") as theirs,
    ):
        assert ours.getnames() == theirs.getnames()
    assert not list((tmp_path / "out").rglob("*.partial"))
    stamp = (tmp_path / "out" / "train.txt").stat().st_mtime_ns
    assert main(["prepare", *arguments]) == 0 and (tmp_path / "out" / "train.txt").stat().st_mtime_ns == stamp


def test_what_is_known_is_not_looked_at_again(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(tree, tmp_path / "out") == 0
    (tmp_path / "out" / "train.txt").unlink()
    journal = tmp_path / "out/train/.prepare/looked.jsonl"
    lines = journal.read_bytes().splitlines()
    assert len(lines) == 5, "the broken one is looked at each time: the disk may have been at fault"
    journal.write_bytes(b"\n".join(lines[:-1]))
    assert prepare(tree, tmp_path / "out") == 0
    assert [record["job"] for record in Journal(journal).read()].count(json.loads(lines[-1])["job"]) == 1
    assert len(list(Journal(journal).read())) == 5


def test_what_is_gone_or_has_changed_since_is_made_again(tree: Path, tmp_path: Path) -> None:
    """Killed before the manifest; until it is started again, one output is lost and another video arrives."""
    source, out = tmp_path / "tree", tmp_path / "out"
    shutil.copytree(tree, source)
    (source / "dog/turned.1.mp4").rename(tmp_path / "late.mp4")
    arguments = [source, out, "--encode", "mjpeg", "--shards", "--shard-mib", 1]
    assert prepare(*arguments[:4]) == 0
    lost, kept = out / "train/videos/cat/plain.mp4", out / "train/videos/dog/plain.mp4"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (out / "train.txt").unlink()
    assert prepare(*arguments[:4]) == 0
    assert lost.exists() and kept.stat().st_mtime_ns == before
    shutil.rmtree(out)
    assert prepare(*arguments) == 0
    (out / "train.txt").unlink()
    (tmp_path / "late.mp4").rename(source / "dog/turned.1.mp4")
    assert prepare(*arguments) == 0
    manifest = read_manifest(out / "train.txt")
    assert len(manifest.refs) == 4
    for index, ref in enumerate(manifest.refs):
        original = next(
            path
            for path in source.rglob("*")
            if path.with_suffix("") == source / Path(os.path.relpath(ref.path, out)).with_suffix("")
        )
        with open_video(manifest.refs.location(index)) as video, open_video(str(original)) as other:
            error = video.get(np.array([3])).astype(float) - other.get(np.array([3]))
            assert len(video) == len(other) and 10 * np.log10(255**2 / (error**2).mean()) > 30


def test_a_full_disk_is_not_the_videos_fault(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = av.error.OSError(errno.ENOSPC, "No space left on device", "x.mp4")

    def fail(*_: object) -> None:
        raise full

    monkeypatch.setattr("mvd_ds.files.os.replace", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        encode(str(tree / "cat/plain.mp4"), tmp_path / "x.mp4", Encoding("mjpeg", 5))
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    monkeypatch.undo()
    really = jobs_module.run_jobs

    def run(function, jobs, workers, seconds):  # type: ignore[no-untyped-def]
        if jobs and jobs[0].target:
            return iter([(0, Fault("No space left on device", errno.ENOSPC))])
        return really(function, jobs, workers, seconds)

    monkeypatch.setattr(jobs_module, "run_jobs", run)
    assert prepare(tree, tmp_path / "out", "--encode", "mjpeg") == 2
    assert "No space left on device; make room, and start the same command again" in capsys.readouterr().err
    assert not (tmp_path / "out/train.txt").exists()


def test_a_file_that_takes_too_long_is_named(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "plain.mp4").write_bytes((tree / "cat/plain.mp4").read_bytes())
    assert prepare(alone, tmp_path / "out", "--seconds-per-file", "0.0001") == 2
    assert "plain.mp4: took longer than 0.0001 s and was ended" in capsys.readouterr().err


def test_folders_in_use_are_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tree, tree / "out") == 2
    assert "choose a folder beside the originals" in capsys.readouterr().err and not (tree / "out").exists()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/mine.txt").touch()
    assert prepare(tree, tmp_path) == 2
    assert "train: the folder holds other files" in capsys.readouterr().err
    (tmp_path / "val.txt").touch()
    assert prepare(tree, tmp_path, "--split", "val") == 2
    assert "val.txt: is there, and not from `prepare`; choose another folder, or --split NAME" in capsys.readouterr().err
    assert prepare(tree, tmp_path / "out") == 0
    (tmp_path / "out" / "train.txt").unlink()
    assert prepare(tree, tmp_path / "out", "--verify") == 2
    assert "was begun with verify False, not True" in capsys.readouterr().err


def test_videos_of_two_encoders_are_not_mixed(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, arguments = tmp_path / "out", (tree, tmp_path / "out", "--encode", "h264")
    assert prepare(*arguments) == 0
    record = out / "train" / "prepare.json"
    held = json.loads(record.read_text())
    held["encoder"][-1]["mbtree"] = "1"
    record.write_text(json.dumps(held))
    assert prepare(*arguments) == 0, "what is finished stays as it is"
    (out / "train.txt").unlink()
    capsys.readouterr()
    assert prepare(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out / 'train'}: was begun by another version of mvd_ds or PyAV" in line
