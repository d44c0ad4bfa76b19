"""The groups of pictures of the videos in remote shards, from the file that `prepare` writes beside each shard."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable

from mvd_ds.data.readers.groups import Groups
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.remote.store import FetchError

_SHARDS = 128
"""Shards whose lines are in memory: some 200 KB each."""
_MOST_BYTES = 64 << 20
"""Size of a file that is none of ours."""


def sidecar_address(shard: str) -> str | None:
    """Return the address of the file beside a shard, or None where it cannot be told: a signature is for one object."""
    return f"{shard.removesuffix('.tar')}.json" if shard.endswith(".tar") and "?" not in shard else None


class GroupIndex:
    """Groups by the place of a video in a shard; threads may ask at the same time."""

    def __init__(self, read: Callable[[str, int], bytes]) -> None:
        """Keep ``read``, which returns the content of a remote object of at most so many bytes."""
        self._read = read
        self._shards: OrderedDict[str, dict[tuple[int, int], str] | None] = OrderedDict()
        self._lock = threading.Lock()

    def groups(self, location: ByteRange) -> Groups | None:
        """Return the groups of a video, or None where they are not known.

        Raises:
            FetchError: if the server does not give in time what it may have.
        """
        return Groups.of((self._lines(location.path) or {}).get((location.offset, location.size)), location.size)

    def known(self, shard: str) -> int | None:
        """Return the number of videos of a shard whose groups are known, or None where it has no such index.

        Raises:
            FetchError: as ``groups``.
        """
        lines = self._lines(shard)
        return None if lines is None else len(lines)

    def _lines(self, shard: str) -> dict[tuple[int, int], str] | None:
        with self._lock:
            if shard in self._shards:
                self._shards.move_to_end(shard)
                return self._shards[shard]
        lines = self._fetched(shard)
        with self._lock:
            self._shards[shard] = lines
            if len(self._shards) > _SHARDS:
                self._shards.popitem(last=False)
        return lines

    def _fetched(self, shard: str) -> dict[tuple[int, int], str] | None:
        address = sidecar_address(shard)
        if address is None:
            return None
        try:
            held = json.loads(self._read(address, _MOST_BYTES))
            return {(int(held["videos"][key][0]), int(held["videos"][key][1])): text for key, text in held["groups"].items()}
        except FetchError as error:
            if not error.lasting:
                raise
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            pass  # a file of somebody else, or of an earlier version
        return None
