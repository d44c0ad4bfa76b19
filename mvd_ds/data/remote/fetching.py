"""The fetches of one process: objects come to the node's disk, several at the same time, and are read there like files."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config.base import without_secrets
from mvd_ds.config.remote import RemoteSettings
from mvd_ds.data.readers.location import ByteRange, Location
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.remote.addresses import is_remote, name_in
from mvd_ds.data.remote.cache import DiskCache, cache_folder
from mvd_ds.data.remote.store import FetchError, ObjectState, Store
from mvd_ds.files import ConfigError, one_line

_PROBE_SECONDS = 5.0
"""Time for the server to answer for an object that it gave before, when another one fails."""
_LOST_IN_A_ROW = 3
"""Objects in a row that no server answers for, where it has given none before, that end the run."""
_STATES = 100_000
"""Objects whose size and mark are kept in memory."""


class _Wanted(NamedTuple):
    """A range of an object; ``end`` None: all of it."""

    address: str
    start: int
    end: int | None
    name: str


def is_elsewhere(location: Location) -> bool:
    """Return whether the bytes of ``location`` are not on this machine."""
    return is_remote(location.path if isinstance(location, ByteRange) else location)


class Fetcher:
    """Fetches objects for one process. It travels to loader processes with its settings alone.

    An object that the server refuses, or does not give in time, is a broken video. Where the server does not give in time what
    it gave before either, or three objects in a row and nothing before, it is the server that fails, which ends the run.
    """

    def __init__(self, settings: RemoteSettings, stall_seconds: float) -> None:
        """Keep the settings; ``stall_seconds`` is the time after which a loader process counts as stuck."""
        self._settings, self._stall_seconds = settings, stall_seconds
        self._store = Store(min(settings.deadline_seconds, 0.75 * stall_seconds))
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[_Wanted, Future[int]] = {}
        self._states: OrderedDict[str, ObjectState] = OrderedDict()
        self._given: str | None = None
        self._lost = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Fetcher, (self._settings, self._stall_seconds)

    def expect(self, locations: Sequence[Location]) -> None:
        """Begin to fetch what will be opened next, in this order; what was expected before and not opened is dropped."""
        wanted = dict.fromkeys(_wanted(location) for location in locations if is_elsewhere(location))
        for one in [one for one in self._ahead if one not in wanted]:
            _drop(self._ahead.pop(one))
        for one in wanted:
            if one not in self._ahead:
                self._ahead[one] = self._submit(one)

    def fetch(self, location: Location) -> tuple[ByteRange, int]:
        """Return the bytes of a remote ``location`` as a range of a file of this machine, and its descriptor, to be closed.

        Raises:
            DecodeError: if the object cannot be had in time.
            ConfigError: if the server gives nothing any more, or the disk is full.
        """
        one = _wanted(location)
        future = self._ahead.pop(one, None) or self._submit(one)
        try:
            descriptor = future.result()
        except FetchError as error:
            self._judge(one.address, error)
            raise DecodeError(str(error)) from None
        self._given, self._lost = one.address, 0
        return ByteRange(f"/proc/self/fd/{descriptor}", 0, os.fstat(descriptor).st_size, one.name), descriptor

    def state(self, address: str) -> ObjectState:
        """Return size and mark of an object, asked for once by this process.

        Raises:
            FetchError: if the server does not tell.
        """
        if address not in self._states:
            self._states[address] = self._store.state(address)
            if len(self._states) > _STATES:
                self._states.popitem(last=False)
        return self._states[address]

    def _submit(self, one: _Wanted) -> Future[int]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._settings.in_flight, "fetch")
        return self._pool.submit(self._fetch, one)

    def _fetch(self, one: _Wanted) -> int:
        """Return a descriptor of a file with the bytes, from the cache or fetched now."""
        state = self.state(one.address)
        end = state.size if one.end is None else one.end
        if end > state.size:
            raise FetchError(f"the object ends at byte {state.size}, before the video does ({end})", lasting=True)
        limit = int(self._settings.cache_gib * 2**30)
        size = end - one.start
        if size > limit or not state.tag:  # without a mark, another content of the same size would not be noticed
            return self._fetch_once(one, end)
        cache = DiskCache(cache_folder(), limit)
        key = f"{one.address}\n{state.tag}\n{state.size}\n{one.start}-{end}"
        held = cache.open(key, size)
        if held is not None:
            return held
        with cache.adding(key, size) as descriptor:
            self._write(one, end, descriptor)
        return descriptor

    def _fetch_once(self, one: _Wanted, end: int) -> int:
        """Return a descriptor of a file without a name, which is gone when it is closed."""
        descriptor = nameless_file()
        try:
            self._write(one, end, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _write(self, one: _Wanted, end: int, descriptor: int) -> None:
        for piece in self._store.pieces(one.address, one.start, end):
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]

    def _judge(self, address: str, error: FetchError) -> None:
        """Blame the server, and end the run, where it is not this object alone that it does not give.

        Raises:
            ConfigError: then.
        """
        if error.lasting:
            return
        self._lost += 1
        probed = ""
        if self._given is not None and self._given != address:
            try:
                self._store.state(self._given, _PROBE_SECONDS)
                self._lost = 0
                return
            except FetchError as second:
                probed = f"; nor does {one_line(without_secrets(self._given), 200)} any more: {second}"
        elif self._lost < _LOST_IN_A_ROW:
            return
        raise ConfigError(f"{one_line(without_secrets(address), 300)}: {error}{probed}; its server is at fault")


def nameless_file() -> int:
    """Return a descriptor of a file in the node's cache folder that has no name, and is gone when it is closed.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    folder: Path = cache_folder()
    try:
        descriptor, path = tempfile.mkstemp(dir=folder)
    except OSError as error:
        raise ConfigError(f"{one_line(folder)}: {error.strerror}; set MVD_DS_CACHE to a folder that can be written") from None
    os.unlink(path)
    return descriptor


def _wanted(location: Location) -> _Wanted:
    assert not isinstance(location, bytes)
    if isinstance(location, ByteRange):
        return _Wanted(location.path, location.offset, location.offset + location.size, location.name)
    return _Wanted(location, 0, None, name_in(location))


def _drop(future: Future[int]) -> None:
    """Close what a fetch has brought that nobody wants, once it is there."""

    def close(done: Future[int]) -> None:
        with suppress(Exception):
            os.close(done.result())

    if not future.cancel():
        future.add_done_callback(close)
