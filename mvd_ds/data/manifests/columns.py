"""The collectors of named columns behind the labels of a manifest: places in tar shards, and captions."""

from __future__ import annotations

import os
from array import array
from typing import NamedTuple

import numpy as np

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.captions import TEXT_COLUMN, read_captions
from mvd_ds.files import one_line

_SHARD_COLUMNS = ("shard", "offset", "bytes")


class ShardPlaces(NamedTuple):
    """The places of videos in the tar files that hold all of them."""

    names: tuple[str, ...]
    """Names of the shards."""
    shard: np.ndarray
    """int32 (n,), index in ``names``."""
    offset: np.ndarray
    """int64 (n,), bytes before the video."""
    size: np.ndarray
    """int64 (n,), bytes of the video."""

    def part(self, rows: np.ndarray) -> ShardPlaces:
        """Return the places of the videos ``rows``, int64 (k,)."""
        return ShardPlaces(self.names, self.shard[rows], self.offset[rows], self.size[rows])


class Shards:
    """Collects the columns ``shard``, ``offset`` and ``bytes``."""

    def __init__(self, shard: int, offset: int, size: int) -> None:
        """Keep the numbers of these columns."""
        self._columns = (shard, offset, size)
        self._numbers: dict[bytes, int] = {}
        self._shard, self._offset, self._size = array("l"), array("q"), array("q")

    @classmethod
    def of(cls, names: list[str]) -> Shards | None:
        """Return a collector, or None if the columns do not name shards."""
        return cls(*map(names.index, _SHARD_COLUMNS)) if set(_SHARD_COLUMNS) <= set(names) else None

    def add(self, fields: list[bytes]) -> str:
        """Take the fields of a line and return a fault, or nothing."""
        name, offset, size = (fields[column].strip() for column in self._columns)
        if not name or not offset.isdigit() or not size.isdigit() or max(len(offset), len(size)) > 18:
            return f"'{_shown(b' '.join((name, offset, size)))}' is not the name of a shard and two numbers of bytes"
        self._shard.append(self._numbers.setdefault(name, len(self._numbers)))
        self._offset.append(int(offset))
        self._size.append(int(size))
        return ""

    def places(self) -> ShardPlaces:
        """Return the places of all videos."""
        names = tuple(map(os.fsdecode, self._numbers))
        shard, offset, size = np.array(self._shard, np.int32), np.array(self._offset, np.int64), np.array(self._size, np.int64)
        return ShardPlaces(names, shard, offset, size)


class CaptionSpans:
    """Collects where the column ``text`` stands; what it holds is checked here and read when it is asked for."""

    def __init__(self, column: int) -> None:
        """Keep the number of the column."""
        self._column = column
        self._spans = array("q")

    @classmethod
    def of(cls, names: list[str]) -> CaptionSpans | None:
        """Return a collector, or None if no column is named ``text``."""
        return cls(names.index(TEXT_COLUMN)) if TEXT_COLUMN in names else None

    def add(self, fields: list[bytes], end: int) -> str:
        """Take the fields of a line that ends at ``end`` in the file, and return a fault, or nothing."""
        field = fields[self._column]
        try:
            read_captions(field)
        except ValueError as error:
            return str(error)
        behind = sum(len(other) + 1 for other in fields[self._column + 1 :])
        self._spans.extend((end - behind - len(field), end - behind))
        return ""

    def spans(self) -> np.ndarray:
        """Return int64 (n, 2), start and end of the captions of each video in the file."""
        return np.array(self._spans, np.int64).reshape(-1, 2)


def _shown(text: bytes) -> str:
    return one_line(without_secrets(text[:4096].decode(errors="replace")), 80)
