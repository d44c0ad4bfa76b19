"""The folder of `prepare` belongs to one process and one set of settings at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare.folder import claimed
from mvd_ds.data.prepare.options import PrepareOptions
from mvd_ds.data.readers.location import read_bytes
from mvd_ds.files import ConfigError, read_json, write_json


def test_two_cannot_work_in_one_folder(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(tree, tmp_path / "out/train", PrepareOptions()):
        assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 2
        message = capsys.readouterr().err
        assert "another `prepare` works in this folder (process " in message and message.count("\n") == 1
        with pytest.raises(ConfigError, match="another `prepare` works"), claimed(tree, tmp_path / "out/train", PrepareOptions()):
            pass
    assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 0


def test_a_prepared_folder_of_another_source_is_not_taken_for_this_one(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "is prepared; nothing to do" in capsys.readouterr().out
    assert main(["prepare", str(tree / "cat"), str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "was begun with source" in capsys.readouterr().err


def test_leftovers_of_a_killed_process_are_removed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out/train/.prepare").mkdir(parents=True)
    (tmp_path / "out/train/videos").mkdir()
    (tmp_path / "out/train/videos/.x.mp4.77.partial").touch()
    assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_the_home_folder_is_meant_by_a_tilde(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", str(tree), "~/out", "--workers", "1"]) == 0
    assert (tmp_path / "out/train.txt").exists() and not (tmp_path / "~").exists()


def test_a_list_that_changed_since_is_not_taken_for_prepared(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "list.csv"
    source.write_text(f"{tree}/cat/plain.mp4,cat\n")
    arguments = ["prepare", str(source), str(tmp_path / "out"), "--workers", "1"]
    assert main(arguments) == 0 and main(arguments) == 0
    source.write_text(f"{tree}/cat/plain.mp4,dog\n")
    assert main(arguments) == 2
    assert "have changed since it was prepared" in capsys.readouterr().err


def test_both_splits_stand_in_one_folder(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifests are called what recipes and pages call them."""
    out = tmp_path / "out"
    for split, video in (("train", "plain.mp4"), ("val", "cut short.mp4")):
        (tmp_path / f"k400_{split}.csv").write_text(f"{tree}/cat/{video},cat\n")
        assert main(["prepare", str(tmp_path / f"k400_{split}.csv"), str(out), "--shards", "--workers", "1"]) == 0
        assert f"data.manifest={out / split}.txt\n" in capsys.readouterr().out
        manifest = read_manifest(out / f"{split}.txt")
        assert Path(manifest.refs.path(0)).name == video and read_bytes(manifest.refs.location(0))
        assert read_manifest(out / split).source == str(out / f"{split}.txt"), "the folder beside it means the same"
        if split == "train":
            assert read_manifest(out).source == str(out / "train.txt")
    with pytest.raises(ConfigError, match=r"holds several manifests: give .*train.txt or .*val.txt"):
        read_manifest(out)
    assert main(["prepare", str(tree), str(out), "--split", "a/b"]) == 2
    assert "--split a/b: is a name" in capsys.readouterr().err


def test_a_folder_of_an_earlier_version_stays_what_it_is(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, arguments = tmp_path / "out", ["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]
    assert main(arguments) == 0
    for path in (*(out / "train").iterdir(), out / "train.txt"):
        path.rename(out / ("manifest.txt" if path.name == "train.txt" else path.name))
    (out / "train").rmdir()
    settings = read_json(out / "prepare.json")
    write_json(out / "prepare.json", {key: settings[key] for key in settings.keys() - {"videos", "classes"}})
    for place in (out, out / "manifest.txt"):
        assert len(read_manifest(place).refs) == 5
    assert main(arguments) == 0 and "manifest.txt is prepared; nothing to do" in capsys.readouterr().out
    (out / "manifest.txt").unlink()
    assert main(arguments) == 0 and len(read_manifest(out).refs) == 5 and not (out / "train").exists()


def test_what_was_begun_with_other_videos_or_classes_is_told(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("plain.mp4,cat\n")
    (tmp_path / "classes.json").write_text('["dog", "cat"]')
    arguments = ["prepare", str(tmp_path / "list.csv"), str(tmp_path / "out"), "--workers", "1"]
    videos = ["--videos", str(tree / "cat")]
    assert main([*arguments, *videos]) == 0
    (tmp_path / "out/train.txt").unlink()
    assert main([*arguments, "--videos", str(tree / "dog")]) == 2
    assert f"was begun with videos {tree / 'cat'}, not {tree / 'dog'}; choose another" in capsys.readouterr().err
    assert main([*arguments, *videos, "--classes", str(tmp_path / "classes.json")]) == 2
    assert f"was begun with classes None, not {tmp_path / 'classes.json'}; choose another" in capsys.readouterr().err
    assert main([*arguments, *videos]) == 0
