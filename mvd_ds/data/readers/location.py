"""Where the bytes of a video are: a file, a byte range of a file, or memory."""

from __future__ import annotations

import os
from typing import NamedTuple

from mvd_ds.data.readers.video import DecodeError, reason_of


class ByteRange(NamedTuple):
    """A file inside another one, such as a member of a tar shard."""

    path: str
    """Of the file around it."""
    offset: int
    """Bytes before it."""
    size: int
    """Bytes of it."""
    name: str = ""
    """Of the file inside; its extension tells images from videos."""


Location = str | bytes | ByteRange
"""A path, the content of a video file, or a byte range of a file."""


def extension_of(location: Location) -> str:
    """``.mp4``, in lower case; empty for bytes."""
    name = location if isinstance(location, str) else "" if isinstance(location, bytes) else location.name
    return os.path.splitext(name)[1].lower()


def size_of(location: Location) -> int:
    """Bytes of ``location``.

    Raises:
        OSError: if the file is not there.
    """
    if isinstance(location, str):
        return os.path.getsize(location)
    return len(location) if isinstance(location, bytes) else location.size


def check_exists(location: Location) -> None:
    """Refuse a file that is not there, or ends before its byte range does.

    Raises:
        DecodeError: saying so.
    """
    if isinstance(location, bytes):
        return
    path, end = (location, 0) if isinstance(location, str) else (location.path, location.offset + location.size)
    try:
        held = os.path.getsize(path)
    except FileNotFoundError:
        raise DecodeError("no such file") from None
    except (OSError, ValueError) as error:
        raise DecodeError(reason_of(error)) from None
    if held < end:
        raise DecodeError(f"the file around it ends at byte {held}, before the video does ({end})")


def read_bytes(location: Location) -> bytes:
    """The content of ``location``.

    Raises:
        OSError: if it cannot be read.
        DecodeError: if the file around a byte range ends before it does.
    """
    if isinstance(location, bytes):
        return location
    if isinstance(location, str):
        with open(location, "rb") as file:
            return file.read()
    check_exists(location)
    with open(location.path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), location.size, location.offset)


def url_of(location: str | ByteRange) -> str:
    """What FFmpeg opens. ``file:`` keeps it from taking ``take:2.mp4`` for a protocol, or a manifest's line for an address."""
    if isinstance(location, str):
        return f"file:{location}"
    return f"subfile,,start,{location.offset},end,{location.offset + location.size},,:file:{location.path}"
