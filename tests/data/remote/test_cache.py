"""The node's cache: of a limited size, shared, whole or not there, and readable while it is emptied."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mvd_ds.data.remote import cache as module
from mvd_ds.data.remote.cache import DiskCache, cache_folder, nameless_file
from mvd_ds.files import ConfigError


def _add(cache: DiskCache, key: str, content: bytes) -> None:
    with cache.adding(key, len(content)) as descriptor:
        os.write(descriptor, content)
    os.close(descriptor)


def _held(cache: DiskCache, key: str, size: int) -> bytes | None:
    descriptor = cache.open(key, size)
    if descriptor is None:
        return None
    content = os.pread(descriptor, size, 0)
    os.close(descriptor)
    return content


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("objects-*/??/*"))


def test_an_entry_is_there_when_it_is_whole(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1000)
    assert _held(cache, "a", 3) is None
    _add(cache, "a", b"abc")
    assert _held(cache, "a", 3) == b"abc" and _held(cache, "a", 4) is None and _held(cache, "b", 3) is None
    with pytest.raises(KeyError), cache.adding("b", 3) as descriptor:
        os.write(descriptor, b"b")
        raise KeyError
    assert _held(cache, "b", 1) is None and not list(tmp_path.glob("objects-*/??/*.partial"))


def test_it_stays_below_its_limit_and_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1000)
    for number in range(40):
        _add(cache, str(number), bytes([number]) * 100)
        assert _bytes(tmp_path) <= 1000
        if number == 5:
            open_still = cache.open("5", 100)
        if number >= 3:
            time.sleep(0.002)
            assert _held(cache, "3", 100) == b"\3" * 100  # used all the time
    assert _held(cache, "39", 100) is not None and _held(cache, "5", 100) is None
    assert open_still is not None and os.pread(open_still, 100, 0) == b"\5" * 100
    os.close(open_still)


def _fill(folder: Path, first: int) -> None:
    cache = DiskCache(folder, 20_000)
    for number in range(10_000):
        _add(cache, f"{first}-{number}", os.urandom(500 + number % 200))


def test_processes_that_are_killed_leave_it_whole_and_below_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        fillers = [context.Process(target=_fill, args=(tmp_path, 10 * attempt + number)) for number in range(3)]
        for filler in fillers:
            filler.start()
        time.sleep(0.3)
        for filler in fillers:
            assert filler.pid is not None
            os.kill(filler.pid, signal.SIGKILL)
            filler.join()
    monkeypatch.setattr(module, "_DEAD_AFTER_SECONDS", -1.0)
    cache = DiskCache(tmp_path, 20_000)
    for number in range(60):
        _add(cache, f"after {number}", bytes(600))
    assert 10_000 < _bytes(tmp_path) <= 20_000 and not list(tmp_path.glob("objects-*/??/*.partial"))


def test_the_folder_is_made_for_this_user_and_faults_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "file" / "c"))
    with pytest.raises(ConfigError, match="MVD_DS_CACHE"):
        cache_folder()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", ["open", "rename", "mkstemp"])
def test_a_folder_that_somebody_empties_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, late: bool
) -> None:
    """Before or after each step of a fetch: what was opened stays readable, and what is gone is no entry."""
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))
    place, emptied = module.tempfile if step == "mkstemp" else module.os, list[str]()
    call = getattr(place, step)

    def emptying(*arguments: Any, **named: Any) -> Any:
        once = not emptied
        emptied.append(step)
        made = call(*arguments, **named) if late else None
        if once:
            shutil.rmtree(tmp_path / "cache")
        return made if late else call(*arguments, **named)

    monkeypatch.setattr(place, step, emptying)
    if step == "mkstemp":
        descriptor = nameless_file()
        os.write(descriptor, b"12345")
    else:
        with DiskCache(cache_folder(), 100).adding("key", 5) as descriptor:
            os.write(descriptor, b"12345")
    assert emptied and os.pread(descriptor, 9, 0) == b"12345" and not list(tmp_path.rglob("*.partial"))
    os.close(descriptor)
