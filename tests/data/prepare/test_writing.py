"""The manifest of `prepare` reads back as it was meant, whatever the videos, folders and classes are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.cli import main
from mvd_ds.data.manifests.listings import ListedVideo, Listing
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare.inspection import COLUMNS
from mvd_ds.data.prepare.options import Found
from mvd_ds.data.prepare.writing import manifest_text, write_manifest
from mvd_ds.data.readers.location import ByteRange, read_bytes
from mvd_ds.files import ConfigError

NAMES = [
    "#shorts dog.mp4", " lead.mp4", "a  b.mp4", "a 3.mp4", "7.mp4", "a,b.mp4", 'q"uote.mp4', "it's.mp4", "$(x).mp4", "%s.mp4",
    "[x].mp4", "{x}.mp4", "~.mp4", "-x.mp4", "a#b.mp4", "ü.mp4", "e\u0301.mp4", "caf\udce9.mp4", "\u2028.mp4", "\x1b[31m.mp4",
    "a\rb.mp4", "\ufeffx.mp4", "\xa0x.mp4", "x..mp4", "a.mp4.mp4", "# root: x.mp4", "a\\b.mp4", "\x0bx.mp4",
]  # fmt: skip


@pytest.fixture
def odd(plain: Path, tmp_path: Path) -> Path:
    """Two folders, which are the classes, of videos with odd names."""
    for folder in ("caf\udce9 x", "#y"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
        for name in NAMES:
            os.link(plain, tmp_path / "tree" / folder / name)
    return tmp_path / "tree"


@pytest.mark.parametrize("arguments", [[], ["--shards"], ["--encode", "mjpeg"]])
def test_every_good_video_comes_back(odd: Path, tmp_path: Path, arguments: list[str]) -> None:
    os.link(odd / "#y/7.mp4", odd / "#y/tab\there.mp4")
    assert main(["prepare", str(odd), str(tmp_path / "out"), "--workers", "2", *arguments]) == 0
    manifest = read_manifest(tmp_path / "out/train.txt")
    report = json.loads((tmp_path / "out/train/report.json").read_text())
    assert len(manifest.refs) == report["good"] == 2 * len(NAMES) and set(report["broken"]) == {"#y/tab\there.mp4"}
    assert manifest.class_names == {"label": ("#y", "caf\udce9 x")}
    base = {"--shards": tmp_path / "out", "--encode": tmp_path / "out/train/videos"}.get((arguments or ["none"])[0], odd)
    assert {os.path.relpath(ref.path, base) for ref in manifest.refs} == {
        f"{c}/{n}" for c in ("caf\udce9 x", "#y") for n in NAMES
    }
    for index, ref in enumerate(manifest.refs):
        assert ref.labels == (int(os.path.relpath(ref.path, base).startswith("caf")),)
        location = manifest.refs.location(index)
        assert isinstance(location, ByteRange) or Path(location).exists()


def test_a_tree_of_odd_names_at_its_top(plain: Path, tmp_path: Path) -> None:
    root = tmp_path / " my #videos "
    root.mkdir()
    for name in NAMES:
        os.link(plain, root / name)
    assert main(["prepare", str(root), str(tmp_path / "out"), "--workers", "2"]) == 0
    manifest = read_manifest(tmp_path / "out/train.txt")
    assert {os.path.relpath(ref.path, root) for ref in manifest.refs} == set(NAMES)


def test_what_does_not_read_back_is_refused_and_not_written(tmp_path: Path) -> None:
    root = tmp_path / "two\nlines"
    facts = dict.fromkeys(COLUMNS, 0)
    found = [Found(ListedVideo("a.mp4", str(root / "a.mp4"), ()), facts, str(root / "a.mp4"))]
    with pytest.raises(ConfigError, match=r"manifest.txt.*is (read back as|not 'path label)"):
        write_manifest(tmp_path / "manifest.txt", Listing([], str(root), (), {}, {}, []), found, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["--shards"]])
def test_held_out_videos_are_listed_as_they_are(odd: Path, tmp_path: Path, arguments: list[str]) -> None:
    """Fine-tuning lists what it held out by the same writer: odd names and places in shards come back."""
    source = odd
    if arguments:
        assert main(["prepare", str(odd), str(tmp_path / "out"), "--workers", "2", *arguments]) == 0
        source = tmp_path / "out/train.txt"
    held = read_manifest(source).part(np.arange(5, 40))
    names = held.class_names["label"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/held_out.txt").write_bytes(
        manifest_text(held, held.labels[:, 0].tolist(), "label", names, tmp_path / "run/held_out.txt")
    )
    again = read_manifest(tmp_path / "run/held_out.txt")
    assert again.class_names == {"label": names} and np.array_equal(again.labels, held.labels)
    for index in range(35):
        assert read_bytes(again.refs.location(index)) == read_bytes(held.refs.location(index))


def test_a_held_out_name_that_no_manifest_holds_is_refused(plain: Path, tmp_path: Path) -> None:
    for place in ("a/1.mp4", "a/two\nlines.mp4", "b/1.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        os.link(plain, tmp_path / place)
    held = read_manifest(tmp_path)
    with pytest.raises(ConfigError, match=r"held_out.txt: no manifest can hold '.*two lines.mp4': .* line break; rename"):
        manifest_text(held, [0, 0, 1], "label", ("a", "b"), Path("held_out.txt"))
