"""The folder of `prepare` belongs to one process and one set of settings at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.data.prepare.folder import claimed
from mvd_ds.data.prepare.options import PrepareOptions
from mvd_ds.files import ConfigError


def test_two_cannot_work_in_one_folder(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(tree, tmp_path / "out", PrepareOptions()):
        assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 2
        message = capsys.readouterr().err
        assert "another `prepare` works in this folder (process " in message and message.count("\n") == 1
        with pytest.raises(ConfigError, match="another `prepare` works"), claimed(tree, tmp_path / "out", PrepareOptions()):
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
    (tmp_path / "out/.prepare").mkdir(parents=True)
    (tmp_path / "out/videos").mkdir()
    (tmp_path / "out/videos/.x.mp4.77.partial").touch()
    assert main(["prepare", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_the_home_folder_is_meant_by_a_tilde(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", str(tree), "~/out", "--workers", "1"]) == 0
    assert (tmp_path / "out/manifest.txt").exists() and not (tmp_path / "~").exists()


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
