"""The fetches of one process: objects come to the node's disk, several at the same time, and are read there like files."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from mvd_ds.config.base import without_secrets
from mvd_ds.config.remote import RemoteSettings
from mvd_ds.data.readers.groups import Groups, check_of
from mvd_ds.data.readers.location import ByteRange, Location
from mvd_ds.data.readers.partial_file import PartialFile, Span, joined
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.remote.addresses import is_remote, name_in
from mvd_ds.data.remote.cache import DiskCache, cache_folder, nameless_file
from mvd_ds.data.remote.clients import ObjectState
from mvd_ds.data.remote.group_index import GroupIndex
from mvd_ds.data.remote.needed import NeededFrames
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.files import DISK_FULL, ConfigError, one_line

_PROBE_SECONDS = 5.0
"""Time for the server to give the beginning of an object that it gave before, when another one fails."""
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
    frames: NeededFrames | None = None
    """The frames that must be there, where the groups of pictures of the range are known; None: all."""


class _Fetched(NamedTuple):
    """A file without a name, or an entry of the cache, with what was wanted."""

    descriptor: int
    size: int
    spans: list[Span] | None = None
    """What is there of it; None: all."""


def is_elsewhere(location: Location) -> bool:
    """Return whether the bytes of ``location`` are not on this machine."""
    return is_remote(location.path if isinstance(location, ByteRange) else location)


class Fetcher:
    """Fetches objects for one process. It travels to loader processes with its settings alone.

    An object that the server refuses, or does not give in time, is a broken video. Where the server does not give in time what
    it gave before either, or three objects in a row and nothing before, it is the server that fails, which ends the run.
    """

    def __init__(
        self,
        settings: RemoteSettings,
        stall_seconds: float,
        total_bytes: int = 0,
        setting: str = "data.remote.deadline_seconds",
    ) -> None:
        """Keep the settings.

        Args:
            settings: those of the recipe.
            stall_seconds: time after which a loader process counts as stuck.
            total_bytes: size of all that may be fetched; parts of videos are kept where all of them have room.
            setting: what says the time for one object, for messages.
        """
        self._settings, self._stall_seconds, self._total_bytes = settings, stall_seconds, total_bytes
        self._setting, self._store = setting, Store(min(settings.deadline_seconds, 0.75 * stall_seconds), setting)
        self._pool: ThreadPoolExecutor | None = None
        self._index = GroupIndex(self._small)
        self._ahead: dict[_Wanted, Future[_Fetched]] = {}
        self._states: OrderedDict[str, ObjectState] = OrderedDict()
        self._given: str | None = None
        self._lost = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Fetcher, (self._settings, self._stall_seconds, self._total_bytes, self._setting)

    def expect(self, videos: Sequence[tuple[Location, NeededFrames | None]]) -> None:
        """Begin to fetch what will be opened next, in this order; what was expected before and not opened is dropped."""
        wanted = dict.fromkeys(_wanted(location, frames) for location, frames in videos if is_elsewhere(location))
        for one in [one for one in self._ahead if one not in wanted]:
            _drop(self._ahead.pop(one))
        for one in wanted:
            if one not in self._ahead:
                self._ahead[one] = self._submit(one)

    def fetch(self, location: Location, frames: NeededFrames | None = None) -> tuple[ByteRange | PartialFile, int]:
        """Return the bytes of a remote ``location`` as a file of this machine, and its descriptor, to be closed.

        Args:
            location: a remote object, or a range of one.
            frames: those that are needed, where the rest need not be there; None: all is.

        Raises:
            DecodeError: if the object cannot be had in time.
            ConfigError: if the server gives nothing any more, or the disk is full.
        """
        one = _wanted(location, frames)
        future = self._ahead.pop(one, None) or self._submit(one)
        try:
            descriptor, size, spans = future.result()
        except FetchError as error:
            self._judge(one.address, error)
            raise DecodeError(str(error)) from None
        self._given, self._lost = one.address, 0
        if spans is not None:
            return PartialFile(descriptor, size, spans), descriptor
        return ByteRange(f"/proc/self/fd/{descriptor}", 0, size, one.name), descriptor

    def known_groups(self, location: ByteRange) -> int | None:
        """Return the number of videos in a shard that are fetched in parts; None where none is, or its server does not tell."""
        try:
            return self._index.known(location.path)
        except FetchError:
            return None

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

    def known(self, address: str) -> ObjectState | None:
        """Return size and mark of an object, or None if its server refuses it or does not tell in time.

        Raises:
            ConfigError: if the server gives nothing any more.
        """
        try:
            state = self.state(address)
        except FetchError as error:
            self._judge(address, error)
            return None
        self._given, self._lost = address, 0
        return state

    def _submit(self, one: _Wanted) -> Future[_Fetched]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._settings.in_flight, "fetch")
        return self._pool.submit(self._fetch, one)

    @property
    def _limit(self) -> int:
        return int(self._settings.cache_gib * 2**30)

    def _fetch(self, one: _Wanted) -> _Fetched:
        """Return a file with the bytes, from the cache or fetched now."""
        ends = time.monotonic() + self._store.deadline_seconds
        state = self.state(one.address)
        end = state.size if one.end is None else one.end
        if end > state.size:
            raise FetchError(f"the object ends at byte {state.size}, before the video does ({end})", lasting=True)
        size = end - one.start
        if one.frames is not None:
            groups = self._index.groups(ByteRange(one.address, one.start, size))
            part = self._fetch_part(one, size, groups, one.frames, ends) if groups is not None else None
            if part is not None:
                return part
        if size > self._limit or not state.tag:  # without a mark, another content of the same size would not be noticed
            return _Fetched(self._fetch_once(one, [(one.start, end)], ends), size)
        cache, key = self._kept(one.address, state, (one.start, end))
        descriptor = cache.open(key, size)
        if descriptor is None:
            with cache.adding(key, size) as descriptor:
                self._write(one, (one.start, end), descriptor, ends)
        return _Fetched(descriptor, size)

    def _fetch_part(self, one: _Wanted, size: int, groups: Groups, frames: NeededFrames, ends: float) -> _Fetched | None:
        """Return a file with what shows ``frames`` at its place and holes between; None if the index is of another file."""
        wanted = groups.spans(frames.of(groups.frames, groups.fps))
        spans = [(one.start + start, one.start + end) for start, end in wanted]
        state = self.state(one.address)
        keeps = bool(state.tag) and self._total_bytes <= self._limit
        held = {span: self._held(one.address, state, span) for span in spans} if keeps else dict.fromkeys(spans)
        descriptor = self._fetch_once(one, joined(span for span, content in held.items() if content is None), ends)
        for (start, _), content in held.items():
            if content is not None:
                os.pwrite(descriptor, content, start - one.start)
        if check_of(os.pread(descriptor, end - start, start) for start, end in groups.opening) != groups.check:
            os.close(descriptor)
            return None
        for (start, end), content in held.items():
            if keeps and content is None:
                cache, key = self._kept(one.address, state, (start, end))
                with cache.adding(key, end - start) as entry:
                    os.write(entry, os.pread(descriptor, end - start, start - one.start))
                os.close(entry)
        return _Fetched(descriptor, size, wanted)

    def _held(self, address: str, state: ObjectState, span: Span) -> bytes | None:
        """Return a range from the cache, or None."""
        cache, key = self._kept(address, state, span)
        entry = cache.open(key, span[1] - span[0])
        if entry is None:
            return None
        try:
            return os.pread(entry, span[1] - span[0], 0)
        finally:
            os.close(entry)

    def _kept(self, address: str, state: ObjectState, span: Span) -> tuple[DiskCache, str]:
        """Return the node's cache and the key of a range in it."""
        return DiskCache(cache_folder(), self._limit), f"{address}\n{state.tag}\n{state.size}\n{span[0]}-{span[1]}"

    def _small(self, address: str, most: int) -> bytes:
        """Return the content of an object of at most ``most`` bytes; nothing of a larger one."""
        if self.state(address).size > most:
            return b""
        descriptor, size, _ = self._fetch(_wanted(address))
        try:
            return os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)

    def _fetch_once(self, one: _Wanted, spans: Sequence[Span], ends: float) -> int:
        """Return a descriptor of a file without a name, which is gone when it is closed, with ranges of the object."""
        descriptor = nameless_file()
        try:
            for span in spans:
                self._write(one, span, descriptor, ends)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise ConfigError(f"{one_line(cache_folder())}: {error.strerror}; make room, or move MVD_DS_CACHE") from None
            raise
        return descriptor

    def _write(self, one: _Wanted, span: Span, descriptor: int, ends: float) -> None:
        place = span[0] - one.start
        for piece in self._store.pieces(one.address, *span, ends, self.state(one.address)):
            view = memoryview(piece)
            while view:
                written = os.pwrite(descriptor, view, place)
                view, place = view[written:], place + written

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
                self._store.probe(self._given, _PROBE_SECONDS)
                self._lost = 0
                return
            except FetchError as second:
                probed = f"; nor does {one_line(without_secrets(self._given), 200)} any more: {second}"
        elif self._lost < _LOST_IN_A_ROW:
            return
        raise ConfigError(f"{one_line(without_secrets(address), 300)}: {error}{probed}; its server is at fault")


def _wanted(location: Location, frames: NeededFrames | None = None) -> _Wanted:
    assert not isinstance(location, bytes)
    if isinstance(location, ByteRange):
        return _Wanted(location.path, location.offset, location.offset + location.size, location.name, frames)
    return _Wanted(location, 0, None, name_in(location))


def _drop(future: Future[_Fetched]) -> None:
    """Close what a fetch has brought that nobody wants, once it is there."""

    def close(done: Future[_Fetched]) -> None:
        with suppress(Exception):
            os.close(done.result().descriptor)

    if not future.cancel():
        future.add_done_callback(close)
