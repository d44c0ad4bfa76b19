"""Locations of videos: a file, a byte range of a file, or bytes in memory."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from mvd_ds.data.readers.video import DecodeError, reason_of
from mvd_ds.data.remote.addresses import is_remote, name_in, why_no_protocol


class ByteRange(NamedTuple):
    """A file inside another one, such as a member of a tar shard."""

    path: str
    """Path of the file around it."""
    offset: int
    """Number of bytes before it in the file around it."""
    size: int
    """Number of its bytes."""
    name: str = ""
    """Name of the file inside; its extension tells images from videos."""


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

Location = str | bytes | ByteRange
"""A path, the content of a video file, or a byte range of a file."""


def extension_of(location: Location) -> str:
    """Return the extension, such as ``.mp4``, in lower case; empty for bytes."""
    name = location if isinstance(location, str) else "" if isinstance(location, bytes) else location.name
    return os.path.splitext(name_in(name) if is_remote(name) else name)[1].lower()


def size_of(location: Location) -> int:
    """Return the number of bytes of ``location``.

    Raises:
        OSError: if the file is not there.
    """
    if isinstance(location, str):
        return os.path.getsize(location)
    return len(location) if isinstance(location, bytes) else location.size


def check_exists(location: Location) -> None:
    """Refuse a file that is not there, is no regular file, or ends before its byte range does.

    Opening a FIFO or a device can block for ever, so the kind of file is looked at first.

    Raises:
        DecodeError: saying so.
    """
    if isinstance(location, bytes):
        return
    path, end = (location, 0) if isinstance(location, str) else (location.path, location.offset + location.size)
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise DecodeError(", ".join(filter(None, ("no such file", why_no_protocol(path))))) from None
    except (OSError, ValueError) as error:
        raise DecodeError(reason_of(error)) from None
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "something else")
        raise DecodeError(f"{kind}, not a file")
    if state.st_size < end:
        raise DecodeError(f"the file around it ends at byte {state.st_size}, before the video does ({end})")


def stamp_of(location: Location) -> str:
    """Return a short mark of the content of ``location``, by size and time of the file: another one tells other content."""
    if isinstance(location, bytes):
        return f"{len(location)}"
    try:
        state = os.stat(location if isinstance(location, str) else location.path)
    except (OSError, ValueError):
        return "missing"
    # Whole seconds, which copies and archives keep.
    mark = f"{state.st_size}-{int(state.st_mtime)}"
    return mark if isinstance(location, str) else f"{mark}-{location.offset}-{location.size}"


def read_bytes(location: Location, limit: int | None = None) -> bytes:
    """Return the content of ``location``, or its first ``limit`` bytes.

    Raises:
        OSError: if it cannot be read.
        DecodeError: if it is no regular file, or the file around a byte range ends before it does.
    """
    if isinstance(location, bytes):
        return location[:limit]
    check_exists(location)
    if isinstance(location, str):
        with open(location, "rb") as file:
            return file.read() if limit is None else file.read(limit)
    with open(location.path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), location.size if limit is None else min(limit, location.size), location.offset)


def url_of(location: str | ByteRange) -> str:
    """Return the URL for FFmpeg; ``file:`` keeps it from taking ``take:2.mp4`` for a protocol or an address."""
    if isinstance(location, str):
        return f"file:{location}"
    return f"subfile,,start,{location.offset},end,{location.offset + location.size},,:file:{location.path}"
