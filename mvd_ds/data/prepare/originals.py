"""The originals of `prepare`, wherever they are: those of an object store come to the node's disk while they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

from mvd_ds.config.remote import RemoteSettings
from mvd_ds.data.readers.location import ByteRange, size_of
from mvd_ds.data.remote.fetching import Fetcher, is_elsewhere

_ASKED = 32
"""Objects that are asked for their state at the same time."""
_MISSING = "missing"
"""State of an object that its server does not give; why not is said by whoever reads it."""


class Originals:
    """Files and objects to read. It travels to processes with its settings alone.

    An object is fetched with the loader's retries for three quarters of the seconds that a file may take, and kept in the
    node's cache: what has room there is fetched once for all phases.
    """

    def __init__(self, seconds_per_file: float = 300.0) -> None:
        """Keep the seconds that a file may take."""
        self._seconds = seconds_per_file

    def __reduce__(self) -> tuple[type[Originals], tuple[float]]:
        return Originals, (self._seconds,)

    @contextmanager
    def here(self, location: str | ByteRange) -> Iterator[str | ByteRange]:
        """Yield where the bytes of ``location`` are on this machine; what was fetched is readable until the block ends.

        Raises:
            DecodeError: if the object cannot be had in time.
            ConfigError: if the server gives nothing any more, or the disk is full.
        """
        if not is_elsewhere(location):
            yield location
            return
        fetched, descriptor = self._fetcher.fetch(location)
        assert isinstance(fetched, ByteRange)
        try:
            yield fetched
        finally:
            os.close(descriptor)

    def states(self, locations: Sequence[str | ByteRange]) -> list[str]:
        """Return a mark of the content of every object among ``locations``, and "" for files of this machine.

        Raises:
            ConfigError: if the server gives nothing any more.
        """
        if not any(map(is_elsewhere, locations)):
            return [""] * len(locations)
        with ThreadPoolExecutor(_ASKED, "ask") as pool:
            return list(pool.map(self.state, locations))

    def state(self, location: str | ByteRange) -> str:
        """Return a mark of the content of an object, "" for a file of this machine.

        Raises:
            ConfigError: if the server gives nothing any more.
        """
        if not is_elsewhere(location):
            return ""
        state = self._fetcher.known(location if isinstance(location, str) else location.path)
        if state is None:
            return _MISSING
        inside = "" if isinstance(location, str) else f"-{location.offset}-{location.size}"
        return f"{state.size}-{state.tag}{inside}"

    def size(self, location: str | ByteRange) -> int:
        """Return the number of bytes of ``location``; 0 of an object that its server does not give.

        Raises:
            OSError: if a file is not there.
            ConfigError: if the server gives nothing any more.
        """
        if isinstance(location, ByteRange) or not is_elsewhere(location):
            return size_of(location)
        state = self._fetcher.known(location)
        return 0 if state is None else state.size

    @cached_property
    def _fetcher(self) -> Fetcher:
        settings = RemoteSettings(deadline_seconds=self._seconds, in_flight=1)
        return Fetcher(settings, self._seconds, setting="three quarters of --seconds-per-file")
