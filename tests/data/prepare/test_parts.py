"""Parts of a `prepare` on many hosts: joined, they are what one host makes, byte for byte."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.data.prepare.jobs import VideoJob, _fingerprint, run_once
from mvd_ds.data.prepare.journal import Journal
from mvd_ds.data.prepare.options import PrepareOptions
from mvd_ds.data.prepare.parts import Part, journal_of
from mvd_ds.data.prepare.process_pool import Fault
from mvd_ds.files import ConfigError
from nightly_record import record
from video_files import write_video

ENCODED = ("--encode", "h264", "--short-side", "32", "--shards")
ROOT = Path(__file__).resolve().parents[3]


def prepare(*arguments: str | Path) -> int:
    return main(["prepare", *map(str, arguments), "--workers", "1"])


def products(folder: Path) -> dict[str, bytes]:
    """All that is left but for the work folder, by path."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".prepare" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_parts_joined_are_what_one_host_makes(tree: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    assert prepare(tree, one, "--encode", "h264") == 0
    for part in ("2/2", "1/2"):
        assert prepare(tree, many, "--encode", "h264", "--part", part) == 0
    assert not (many / "train.txt").exists()
    assert prepare(tree, many, "--encode", "h264", "--join") == 0
    assert products(many) == products(one) and len(products(one)) >= 7


@pytest.mark.nightly
def test_a_part_that_is_killed_twice_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    for number in range(16):
        write_video(source / f"{number:02d}.mp4", frames=40, width=160, height=120, seed=number)
    (source / "bad.mp4").write_bytes(b"hello " * 50)
    one, many = tmp_path / "one", tmp_path / "many"
    assert prepare(source, one, *ENCODED) == 0
    command = [sys.executable, "-m", "mvd_ds", "prepare", source, many, *ENCODED, "--workers", "1", "--part"]
    for part in ("1/4", "3/4", "4/4"):
        assert prepare(source, many, *ENCODED, "--part", part) == 0
    journal = many / "train" / ".prepare" / "encoded-2-of-4.jsonl"
    for kill in (1, 2):
        process = subprocess.Popen([*command, "2/4"], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < kill):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = journal.read_bytes().count(b"\n")
    assert 1 <= done < 4
    assert prepare(source, many, *ENCODED, "--join") == 2
    assert prepare(source, many, *ENCODED, "--part", "2/4") == 0
    assert journal.read_bytes().count(b"\n") == 4  # what was done before the kills is not done again
    assert prepare(source, many, *ENCODED, "--join") == 0
    assert products(many) == products(one)
    record("prepare", "four parts, one killed twice", {"equal_files": len(products(one)), "videos_done_before_the_kills": done})


def test_a_join_says_which_parts_are_not_done(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert prepare(tree, tmp_path / "out", *arguments) == 2
        return capsys.readouterr().err

    assert "no part is done" in refused("--join")
    assert prepare(tree, tmp_path / "out", "--part", "2/3") == 0
    assert "2 parts of 3 are not done: 1/3, 3/3; start them, then join" in refused("--join")
    assert prepare(tree, tmp_path / "out", "--part", "1/2") == 0
    assert "holds parts of 2 and of 3; delete it, and use one N" in refused("--join")
    assert "was begun with encoding" in refused("--part", "1/3", "--encode", "mjpeg")
    assert "was begun with encoding" in refused("--part", "2/3", "--encode", "mjpeg"), "though this part is done"
    assert "give one of them" in refused("--part", "1/3", "--join")


def test_a_fault_of_one_journal_does_not_hide_what_another_has_done(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    job = VideoJob("a.mp4", str(tmp_path / "a.mp4"))
    options, work = PrepareOptions(), tmp_path
    done, failed = (Journal(work / f"looked-1-of-{total}.jsonl") for total in (2, 4))
    done.append({"job": _fingerprint(job), "facts": {"frames": 3}})
    failed.append({"job": _fingerprint(job), "fault": "took longer than 1 s"})
    kept = run_once("looking", len, [job], journal_of(work, "looked", None), options, lambda *_: None, "kept")
    assert kept == [{"frames": 3}]
    done.path.unlink()
    kept = run_once("looking", len, [job], journal_of(work, "looked", None), options, lambda *_: None, "kept")
    assert kept == [Fault("took longer than 1 s")]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is I/N, such as 3/8"):
        Part.of(text)


def test_parts_take_every_video_once() -> None:
    shares = [Part(number, 3).take(range(10)) for number in (1, 2, 3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.nightly  # Ray takes 240 MB: CI does not install it
def test_the_documented_driver_for_ray_prepares_what_one_host_does(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    page = (ROOT / "mvd_ds" / "data" / "README.md").read_text()
    (driver,) = re.findall(r"```py\n(import ray\n.*?)```", page, re.DOTALL)
    assert prepare(tree, tmp_path / "one", "--encode", "h264") == 0
    (tmp_path / "drive.py").write_text(driver)
    arguments = [str(tree), str(tmp_path / "many"), "--encode", "h264", "--workers", "1"]
    subprocess.run(
        [sys.executable, str(tmp_path / "drive.py"), "2", *arguments],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    assert products(tmp_path / "many") == products(tmp_path / "one")
