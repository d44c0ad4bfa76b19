"""A file opened by PyAV, and what its own table of samples says."""

from __future__ import annotations

import io
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard
from av.video.stream import VideoStream

from mvd_ds.data.readers.location import Location, check_exists, url_of
from mvd_ds.data.readers.video import DecodeError, reason_of

# FFmpeg's messages go through Python otherwise, which dead-locks in loader workers.
av.logging.set_level(None)

READ_ERRORS = (FFmpegError, OSError, ValueError, IndexError)
"""What PyAV raises on damaged files (IndexError: a stream that its container does not list)."""

_MARKS_DAMAGE = frozenset(("h264", "hevc"))
"""Decoders that mark damaged frames, and take the first frames of an open group for errors. Others have to stop at errors: a
damaged frame of theirs holds what its memory held before."""


def open_container(location: Location) -> tuple[InputContainer, VideoStream]:
    """An opened file and its best video stream, decoded by one thread; packets of other streams are not read.

    Raises:
        DecodeError: if the file cannot be opened or holds no video.
    """
    check_exists(location)
    try:
        container = av.open(
            io.BytesIO(location) if isinstance(location, bytes) else url_of(location), metadata_errors="ignore", mode="r"
        )
    except READ_ERRORS as error:
        raise DecodeError(reason_of(error)) from None
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        container.close()
        raise DecodeError("no video in this file" if stream is None else "its codec is not known")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    # Slice threads can dead-lock in loader workers, and cores are busy with other clips anyway.
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    if stream.codec_context.name not in _MARKS_DAMAGE:
        stream.codec_context.options = {"err_detect": "explode"}
    return container, stream


def container_name(container: InputContainer) -> str:
    """``mov`` for mp4, mov, 3gp and m4v; ``matroska`` for mkv and webm; ``mpegts``, ``avi``, ..."""
    return str(container.format.name).split(",")[0]


class SampleTable(NamedTuple):
    """All packets of the video, as the header of an mp4 lists them, in decoding order."""

    stamps: np.ndarray
    """int64 (n,), decoding time stamps, ascending."""
    positions: np.ndarray
    """int64 (n,), where each packet begins in the file."""
    keys: np.ndarray
    """int64, ascending numbers of the key frames; the first is 0."""


def sample_table(container: InputContainer, stream: VideoStream, size: int) -> SampleTable | None:
    """The table of a plain mp4, without reading a packet; None for files that hide packets or that do not list them all.

    0.1 ms for 300 packets, where reading them takes 1 ms and the whole file.

    Args:
        container: an opened file.
        stream: its video.
        size: bytes of the file.

    Raises:
        DecodeError: if the file ends before the last packet does.
    """
    if container_name(container) != "mov" or not stream.frames or len(stream.index_entries) != stream.frames:
        return None
    entries = [(entry.timestamp, entry.pos, entry.size, entry.flags) for entry in stream.index_entries]
    stamps, positions, sizes, flags = np.array(entries, np.int64).T
    inside = positions + sizes <= size
    if not inside.all():
        raise DecodeError(
            f"the file is cut off: {np.count_nonzero(inside)} of the {len(inside)} frames its header lists are there"
        )
    keys = np.flatnonzero(flags & 1)
    if (flags & ~1).any() or not len(keys) or keys[0] != 0 or (np.diff(stamps) <= 0).any():
        return None
    return SampleTable(stamps, positions, keys)
