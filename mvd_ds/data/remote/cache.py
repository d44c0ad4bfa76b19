"""The cache of fetched objects on the node's disk: one folder for all processes of the node, of a limited size.

An entry is a file that is whole or not there. Processes may be killed at any time, and need not know of each other: sizes are
added up under a lock, and counted anew whenever room is made, which also removes what the dead have left. Entries are of one
boot of the machine: a file may lose its end when the power goes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mvd_ds.files import DISK_FULL, ConfigError, one_line

_LEFT_AT = 0.9
"""Share of the limit to which the cache is emptied, oldest first, when it is full."""
_DEAD_AFTER_SECONDS = 3600.0
"""Age at which a file that was never finished belongs to a process that is gone."""
_TRIES = 20
"""Times that a file is made anew whose folder is removed."""
Made = TypeVar("Made")


def cache_folder() -> Path:
    """Return the node's folder for what is fetched, made for this user alone: ``$MVD_DS_CACHE``, or one in ``$TMPDIR``.

    Raises:
        ConfigError: if it cannot be made, or is another user's.
    """
    stated = os.environ.get("MVD_DS_CACHE")
    folder = Path(stated).expanduser() if stated else Path(tempfile.gettempdir()) / f"mvd_ds-cache-{os.getuid()}"
    try:
        _again(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
        if not stated and folder.stat().st_uid != os.getuid():
            raise ConfigError(f"{one_line(folder)}: belongs to another user; set MVD_DS_CACHE to a folder on this node's disk")
    except OSError as error:
        where = "MVD_DS_CACHE" if stated else "set MVD_DS_CACHE to a folder on this node's disk"
        raise ConfigError(f"{one_line(folder)}: {error.strerror or error} ({where})") from None
    return folder


def nameless_file() -> int:
    """Return a descriptor of a file in the node's cache folder that has no name, and is gone when it is closed.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    folder = cache_folder()
    try:
        descriptor, path = _again(lambda: tempfile.mkstemp(dir=cache_folder()))
    except OSError as error:
        raise ConfigError(f"{one_line(folder)}: {error.strerror}; set MVD_DS_CACHE to a folder that can be written") from None
    with suppress(FileNotFoundError):
        os.unlink(path)
    return descriptor


def _again(call: Callable[[], Made]) -> Made:
    """Return what ``call`` makes in a folder that somebody may be emptying, where it is gone a moment later."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            return call()
    return call()


class DiskCache:
    """Entries by key; the one that was used longest ago goes first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Keep the folder, which need not exist, and the limit."""
        self._folder, self._limit = folder / f"objects-{_boot()}", limit_bytes

    def open(self, key: str, size: int) -> int | None:
        """Return a descriptor of the entry of ``key``, or None; it stays readable when the entry is removed."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if os.fstat(descriptor).st_size != size:
            os.close(descriptor)
            return None
        with suppress(OSError):
            os.utime(descriptor)
        return descriptor

    @contextmanager
    def adding(self, key: str, size: int) -> Iterator[int]:
        """Yield a descriptor to write the entry of ``key`` to; it is the entry when the block ends, and stays open.

        What somebody removes meanwhile is no entry, and as readable.

        Raises:
            ConfigError: if the disk is full or refuses.
        """
        path = self._path(key)
        aside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
        descriptor = -1
        try:
            descriptor = _again(lambda: self._begun(aside, size))
            yield descriptor
            with suppress(FileNotFoundError):
                os.rename(aside, path)
        except BaseException as error:
            if descriptor >= 0:
                os.close(descriptor)
                aside.unlink(missing_ok=True)
            if isinstance(error, OSError) and (error.errno in DISK_FULL or error.filename is not None):
                raise ConfigError(
                    f"{one_line(self._folder)}: {error.strerror}; lower data.remote.cache_gib, or move MVD_DS_CACHE"
                ) from None
            raise

    def _begun(self, path: Path, size: int) -> int:
        """Return a descriptor of a new file, for which there is room."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / name[:2] / name[2:]

    def _make_room(self, size: int) -> None:
        """Add ``size`` to the bytes that are in use, and remove the oldest entries if they are more than the limit."""
        with open(self._folder / "used", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read(32)
            used = int(text) if text.isdigit() else self._limit
            if used + size > self._limit:
                used = self._remove_oldest(int(self._limit * _LEFT_AT) - size)
            file.truncate(0)
            file.write(str(used + size).encode())

    def _remove_oldest(self, most: int) -> int:
        """Remove entries until at most ``most`` bytes are left, and return how many are."""
        found: list[tuple[float, int, str]] = []
        long_ago = time.time() - _DEAD_AFTER_SECONDS
        for place in os.scandir(self._folder):
            for file in os.scandir(place.path) if place.is_dir() else ():
                with suppress(OSError):
                    state = file.stat()
                    if file.name.endswith(".partial"):
                        if state.st_mtime < long_ago:
                            os.unlink(file.path)
                        continue
                    found.append((state.st_mtime, state.st_size, file.path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= most:
                break
            with suppress(OSError):
                os.unlink(path)
            left -= size
        return left


def _boot() -> str:
    """Return a mark of this boot of the machine; empty where the kernel tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
