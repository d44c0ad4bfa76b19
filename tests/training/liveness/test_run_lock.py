"""One job per run folder, whatever became of the one before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.training.liveness import run_lock
from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.liveness.process import ProcessName
from mvd_ds.training.liveness.run_lock import Owner, RunLock, require_shared
from mvd_ds.training.run_folder import RunFolder

ELSEWHERE = ProcessName(host="other", machine="another boot", pid=7)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.wait()


def owned_by(folder: RunFolder, name: ProcessName, *ranks: ProcessName) -> RunLock:
    """A folder whose owner and ranks are other processes."""
    lock = RunLock(folder)
    lock.owner = Owner(token=lock.owner.token, process=name)
    lock.acquire()
    for rank, process in enumerate(ranks):
        heartbeat = Heartbeat(folder, rank, 1)
        heartbeat.beat.process = process
        heartbeat.write()
    return lock


def test_a_second_job_is_refused_at_once_and_the_first_keeps_the_folder(tmp_path: Path) -> None:
    first = RunLock(RunFolder(tmp_path))
    first.acquire()
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"another job works here \(process {os.getpid()} on .*touch .*control/stop"):
        RunLock(RunFolder(tmp_path)).acquire()
    assert time.monotonic() - began < run_lock.ENDING_SECONDS / 2 and first.is_held()
    first.release()
    RunLock(RunFolder(tmp_path)).acquire()


def test_a_dead_owner_is_followed_at_once(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    folder = RunFolder(tmp_path)
    name = ProcessName.of(process.pid)
    earlier = owned_by(folder, name, name)
    process.kill()
    while name.is_alive():
        pass
    lock = RunLock(folder)
    lock.acquire()
    assert lock.is_held() and not earlier.is_held()
    assert not list((folder.control / "heartbeats").iterdir())
    earlier.release()
    assert lock.is_held(), "who has lost the folder cannot give it away"


def test_ranks_of_a_dead_job_are_waited_for(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    folder, gone = RunFolder(tmp_path), ProcessName.of(os.getpid()).model_copy(update={"born": 1})
    owned_by(folder, gone, gone, ProcessName.of(process.pid))
    threading.Timer(0.5, process.kill).start()
    began = time.monotonic()
    RunLock(folder).acquire()
    assert time.monotonic() - began > 0.5


def test_ranks_that_do_not_end_are_named(
    tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "ENDING_SECONDS", 0.3)
    folder, gone = RunFolder(tmp_path), ProcessName.of(os.getpid()).model_copy(update={"born": 1})
    owned_by(folder, gone, gone, ProcessName.of(process.pid))
    with pytest.raises(ConfigError, match="another job works here"):
        RunLock(folder).acquire()


def test_a_silent_owner_on_another_machine_is_followed_after_the_stated_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)
    owned_by(RunFolder(tmp_path), ELSEWHERE, ELSEWHERE)
    began = time.monotonic()
    RunLock(RunFolder(tmp_path)).acquire()
    assert time.monotonic() - began > 1.0


def test_an_owner_on_another_machine_that_gives_signs_is_respected(tmp_path: Path) -> None:
    """A sign of life is one that differs from the last, whatever the other machine's clock says."""
    folder, over = RunFolder(tmp_path), threading.Event()
    lock = owned_by(folder, ELSEWHERE, ELSEWHERE)
    heartbeat = Heartbeat(folder, 0, 1)
    heartbeat.beat.process = ELSEWHERE

    def live() -> None:
        while not over.wait(0.2):
            heartbeat.write()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="another job works here"):
            RunLock(folder).acquire()
    finally:
        over.set()
        thread.join()
    assert lock.is_held()


def test_of_many_that_start_together_one_gets_the_folder(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    folder = RunFolder(tmp_path)
    name = ProcessName.of(process.pid)
    owned_by(folder, name, name)
    process.kill()
    process.wait()
    locks = [RunLock(folder) for _ in range(16)]
    outcomes: list[str] = []

    def start(lock: RunLock) -> None:
        try:
            lock.acquire()
            outcomes.append("got it")
        except ConfigError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["got it"] + ["refused"] * 15
    assert sum(lock.is_held() for lock in locks) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": 3}'])
def test_a_torn_owner_file_is_nobody(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.2)
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "owner.json").write_text(text)
    lock = RunLock(RunFolder(tmp_path))
    lock.acquire()
    assert lock.is_held()


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "VISIBLE_SECONDS", 0.1)
    lock = RunLock(RunFolder(tmp_path / "here"))
    lock.acquire()
    require_shared(RunFolder(tmp_path / "here"), lock.owner.token)
    with pytest.raises(ConfigError, match="does not see the folder that rank 0 writes; all hosts need one shared file system"):
        require_shared(RunFolder(tmp_path / "there"), lock.owner.token)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigError, match=r"run\.output .*run: cannot be written"):
        RunLock(RunFolder(tmp_path / "run")).acquire()
