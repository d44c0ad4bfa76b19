"""Files of which only some bytes are here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

Span = tuple[int, int]
"""The bytes from the first number on, to before the second."""


class PartialFile:
    """A file of which some bytes are there, as PyAV reads one; a read of others fails and is remembered."""

    def __init__(self, descriptor: int, size: int, spans: Iterable[Span], offset: int = 0) -> None:
        """Keep a descriptor of bytes at their places from ``offset`` on, the size of the whole, and what is there of it."""
        self.size, self.missed = size, False
        self._descriptor, self._offset, self._place = descriptor, offset, 0
        self._spans = joined(spans)

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes from the place on; none at the end.

        Raises:
            OSError: if they are not there.
        """
        end = next((end for start, end in self._spans if start <= self._place < end), None)
        if end is None and self._place < self.size:
            self.missed = True
            raise OSError(errno.EIO, "bytes that were not fetched")
        data = os.pread(self._descriptor, min(count, (end or 0) - self._place), self._offset + self._place) if end else b""
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place and return it."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return ``spans`` in ascending order, those that touch or overlap as one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > start:
            found.append((start, end))
    return found
