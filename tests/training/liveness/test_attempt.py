"""An attempt ends with one line on a disk that refuses, and begins nothing in the place of what is gone."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.files import read_json, write_text
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.liveness import attempt as room
from mvd_ds.training.liveness.attempt import Attempt
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.run_folder import RunFolder


class Left(Exception):
    """In the place of the end of the process."""


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attempt]:
    def abort(reason: str, speak: bool = True) -> NoReturn:
        raise Left(reason)

    monkeypatch.setattr(room, "abort", abort)
    recipe = load_recipe("quickstart_distill", [])
    assert isinstance(recipe, TrainingRecipe)
    made = Attempt(recipe, RunFolder(tmp_path / "run"), Cluster(0, 1, torch.device("cpu")), StopRequests(), 10)
    made.begin()
    yield made
    if not made.watchdog.over.is_set():
        made._close()


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_wherever_it_is_noticed(attempt: Attempt, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left, match=r"run: No space left on device; what was saved is whole: free .* goes on") as caught:
        attempt.fail(OSError(errno.ENOSPC, "No space left on device"))
    assert "\n" not in str(caught.value) and "Traceback" not in capsys.readouterr().err


def test_a_reason_survives_a_disk_that_takes_no_word_of_it(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller raises it; the folder is free again."""
    monkeypatch.setattr(attempt.status, "fail", refuse)
    attempt.log.file.close()
    attempt.log.file = open("/dev/full", "w", buffering=1)  # noqa: SIM115 - closed by the attempt
    attempt.fail(ConfigError("a checkpoint needs 3 GiB and 0 GiB are free"))
    assert not attempt.lock.path.exists() and attempt.watchdog.over.is_set()
    assert read_json(attempt.folder.status)["state"] == "running"


def test_nothing_is_begun_where_a_folder_was(attempt: Attempt) -> None:
    shutil.rmtree(attempt.folder.path)
    attempt.heartbeat.at("saving", 7, tell=True)
    with pytest.raises(Left, match=r"events: No such file or directory; what was saved is whole"):
        attempt.fail(FileNotFoundError(errno.ENOENT, "No such file or directory", b"/gone/events"))
    with pytest.raises(FileNotFoundError):
        attempt.status.fail("gone")
    attempt._close()
    assert not attempt.folder.path.exists()


def test_what_could_not_be_written_leaves_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "status.json", "old")
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "status.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"] and (tmp_path / "status.json").read_text() == "old"


def test_what_a_dead_rank_has_brought_about_is_told_as_its_death(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher ends the loader processes of all ranks when one of them dies."""

    def follow() -> NoReturn:
        raise Left("rank 1 died")

    monkeypatch.setattr(attempt.watchdog, "follow_the_dead", follow)
    with pytest.raises(Left, match="rank 1 died"):
        attempt.fail(EOFError("unexpected EOF"))
    assert not capsys.readouterr().err
