"""Preparing: facts, faults, new encodings, shards; and what is left when it is killed."""

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

from conformance_files import BROKEN, CHANGED, ENCODED, plain_decode
from mvd_ds.cli import main
from mvd_ds.data import prepare as prepare_module
from mvd_ds.data.decode import open_video, read_frames
from mvd_ds.data.encode import Encoding, encode
from mvd_ds.data.inspect_file import inspect_file
from mvd_ds.data.killable import Fault
from mvd_ds.data.location import Stretch
from mvd_ds.data.manifest import read_manifest
from mvd_ds.data.scan import scan_file
from mvd_ds.data.shards import divide
from mvd_ds.data.video import DecodeError
from mvd_ds.data.whole_files import Journal
from video_files import all_frames, write_trimmed, write_turned, write_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: fit videos of several kinds, and broken ones."""
    tree = tmp_path_factory.mktemp("prepare") / "tree"
    (tree / "cat").mkdir(parents=True)
    (tree / "dog").mkdir()
    plain = write_video(tree / "cat" / "plain.mp4", frames=24, options={"g": "8"})
    write_trimmed(plain, tree / "cat" / "cut short.mp4", 0.4)
    write_turned(plain, tree / "dog" / "turned.1.mp4")
    write_video(tree / "dog" / "plain.webm", **{"frames": 12, **ENCODED["vp9.webm"]})
    (tree / "dog" / "text.mp4").write_bytes(b"hello " * 50)
    data = bytearray(write_video(tree / "dog" / "zeros.mp4", frames=24, options={"g": "6"}).read_bytes())
    place = data.index(b"moov") * 2 // 3
    data[place : place + 400] = bytes(400)
    (tree / "dog" / "zeros.mp4").write_bytes(data)
    return tree


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
    manifest = read_manifest(tmp_path / "out" / "manifest.txt")
    assert [Path(ref.path).relative_to(tree).as_posix() for ref in manifest.refs] == [
        "cat/cut short.mp4",
        "cat/plain.mp4",
        "dog/plain.webm",
        "dog/turned.1.mp4",
    ]
    assert manifest.labels[:, 0].tolist() == [0, 0, 1, 1] and manifest.class_names == {"label": ("cat", "dog")}
    facts = columns(tmp_path / "out" / "manifest.txt")
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
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["videos"], report["good"]) == (6, 4) and set(report["broken"]) == {"dog/text.mp4", "dog/zeros.mp4"}
    assert "Invalid data" in report["broken"]["dog/text.mp4"]
    assert "dog/zeros.mp4: " in (tmp_path / "out" / "report.txt").read_text()
    assert state(tree) == before


def test_without_verify_only_the_beginning_is_decoded(tree: Path, tmp_path: Path) -> None:
    assert prepare(tree, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["broken"].keys() == {"dog/text.mp4"}


def test_a_file_that_is_cut_off_is_named_at_the_first_look(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", frames=60, options={"g": "20"}, container={"movflags": "faststart"})
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(DecodeError, match="the file is cut off: 59 of the 60 frames its header lists are there"):
        inspect_file(str(tmp_path / "cut.mp4"), verify=False)
    assert inspect_file(str(whole), verify=False)["frames"] == 60


@pytest.mark.parametrize(("codec", "psnr"), [("h264", 34.0), ("mjpeg", 30.0)])
def test_encoded_videos_show_the_same_frames(tree: Path, tmp_path: Path, codec: str, psnr: float) -> None:
    assert prepare(tree, tmp_path / "out", "--verify", "--encode", codec, "--short-side", 80, "--group", 4) == 0
    manifest = read_manifest(tmp_path / "out" / "manifest.txt")
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
    manifest = read_manifest(tmp_path / "out" / "manifest.txt")
    for index, ref in enumerate(manifest.refs):
        location = manifest.refs.location(index)
        assert isinstance(location, Stretch) and not Path(ref.path).exists()
        original = next(tree.rglob(Path(ref.path).name))
        for reader in ("auto", "decord") if original.name == "plain.webm" else ("auto",):
            with open_video(location, reader) as video, open_video(str(original)) as other:
                assert np.array_equal(video.get(np.arange(len(other))), other.get(np.arange(len(other))))
    shards = [str(path) for path in sorted((tmp_path / "out" / "shards").glob("*.tar"))]
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
    assert not (tmp_path / "out" / "videos").exists()
    assert prepare(tmp_path / "out" / "manifest.txt", tmp_path / "again", "--verify") == 0
    first, second = (read_manifest(tmp_path / name / "manifest.txt") for name in ("out", "again"))
    for index in range(len(first.refs)):
        one, two = first.refs.location(index), second.refs.location(index)
        assert isinstance(two, Stretch) and two[1:3] == one[1:3]
        with open_video(two) as video:
            assert video.get(np.array([0])).shape[0] == 1


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
        while not (tmp_path / "out/.prepare" / watched).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add((tmp_path / "out" / "manifest.txt").exists())
    assert seen == {False}, "killed before its end"
    with open(tmp_path / "out/.prepare/looked.jsonl", "ab") as file:
        file.write(b'{"name": "half a li')
    (tmp_path / "out" / "shards").mkdir(exist_ok=True)
    (tmp_path / "out/shards/000000.tar").write_bytes(b"a shard without its sidecar")
    assert main(["prepare", *arguments]) == 0
    assert (tmp_path / "out" / "manifest.txt").read_bytes() == (whole / "manifest.txt").read_bytes()
    with tarfile.open(tmp_path / "out/shards/000000.tar") as ours, tarfile.open(whole / "shards/000000.tar") as theirs:
        assert ours.getnames() == theirs.getnames()
    assert not list((tmp_path / "out").rglob("*.part"))
    stamp = (tmp_path / "out" / "manifest.txt").stat().st_mtime_ns
    assert main(["prepare", *arguments]) == 0 and (tmp_path / "out" / "manifest.txt").stat().st_mtime_ns == stamp


def test_what_is_known_is_not_looked_at_again(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(tree, tmp_path / "out") == 0
    (tmp_path / "out" / "manifest.txt").unlink()
    journal = tmp_path / "out/.prepare/looked.jsonl"
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
    lost, kept = out / "videos/cat/plain.mp4", out / "videos/dog/plain.mp4"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (out / "manifest.txt").unlink()
    assert prepare(*arguments[:4]) == 0
    assert lost.exists() and kept.stat().st_mtime_ns == before
    shutil.rmtree(out)
    assert prepare(*arguments) == 0
    (out / "manifest.txt").unlink()
    (tmp_path / "late.mp4").rename(source / "dog/turned.1.mp4")
    assert prepare(*arguments) == 0
    manifest = read_manifest(out / "manifest.txt")
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

    monkeypatch.setattr("mvd_ds.data.encode.finish", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        encode(str(tree / "cat/plain.mp4"), tmp_path / "x.mp4", Encoding("mjpeg", 5))
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    really = prepare_module.run_jobs

    def run(function, jobs, workers, seconds):  # type: ignore[no-untyped-def]
        if jobs and jobs[0].target:
            return iter([(0, Fault("No space left on device", errno.ENOSPC))])
        return really(function, jobs, workers, seconds)

    monkeypatch.setattr(prepare_module, "run_jobs", run)
    assert prepare(tree, tmp_path / "out", "--encode", "mjpeg") == 2
    assert "No space left on device; make room, and start the same command again" in capsys.readouterr().err
    assert not (tmp_path / "out/manifest.txt").exists()


def test_a_video_listed_twice_keeps_both_labels(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{tree / 'cat/plain.mp4'}\t0\n{tree / 'cat/plain.mp4'}\t1\n")
    assert prepare(tmp_path / "list.txt", tmp_path / "out", "--encode", "mjpeg") == 0
    assert read_manifest(tmp_path / "out/manifest.txt").labels[:, 0].tolist() == [0, 1]


def test_a_file_that_takes_too_long_is_named(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "plain.mp4").write_bytes((tree / "cat/plain.mp4").read_bytes())
    assert prepare(alone, tmp_path / "out", "--seconds-per-file", "0.0001") == 2
    assert "plain.mp4: took longer than 0.0001 s and was ended" in capsys.readouterr().err


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


def test_folders_in_use_are_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tree, tree / "out") == 2
    assert "choose a folder beside the originals" in capsys.readouterr().err and not (tree / "out").exists()
    (tmp_path / "mine.txt").touch()
    assert prepare(tree, tmp_path) == 2
    assert "holds other files" in capsys.readouterr().err
    assert prepare(tree, tmp_path / "out") == 0
    (tmp_path / "out" / "manifest.txt").unlink()
    assert prepare(tree, tmp_path / "out", "--verify") == 2
    assert "was begun with verify False, not True" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_thousand_rounds_leave_memory_and_files_as_they_were(tmp_path: Path) -> None:
    """Open, read, close over the whole set: neither memory nor open files grow."""
    from conformance_files import write_all

    write_all(tmp_path)
    fit = [*ENCODED, *CHANGED]
    lengths = {name: plain_decode(tmp_path / name).length for name in fit}

    def round_of(number: int) -> None:
        name = [*fit, *BROKEN][number % (len(fit) + len(BROKEN))]
        for reader in ("auto", "decord"):
            try:
                with open_video(str(tmp_path / name), reader) as video:
                    video.get(np.array([0, lengths.get(name, 1) - 1]))
            except Exception as error:
                assert type(error).__name__ == "DecodeError", (name, reader, error)

    def memory_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for number in range(200):
        round_of(number)
    before, files = memory_mib(), len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        round_of(number)
    assert len(os.listdir("/proc/self/fd")) == files
    assert memory_mib() - before < 20
