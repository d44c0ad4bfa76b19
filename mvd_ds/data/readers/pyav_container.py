"""Containers opened by PyAV, and the table of samples of an mp4."""

from __future__ import annotations

import errno
import io
import re
from functools import partial
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from mvd_ds.data.readers.frames import MAX_PIXELS, check_size
from mvd_ds.data.readers.location import ByteRange, Location, check_exists, read_bytes, size_of, url_of
from mvd_ds.data.readers.partial_file import PartialFile
from mvd_ds.data.readers.video import DecodeError, decode_errors, reason_of

# FFmpeg's messages go through Python otherwise, which dead-locks in loader workers.
av.logging.set_level(None)

CONTAINERS = ["mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "flv", "asf", "ogg", "gif", "mxf", "dv"]
"""FFmpeg's names of the container formats that are read. Others, such as playlists, could name further files or addresses."""
CONTAINER_OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file,subfile", "enable_drefs": "0"}
"""Options for FFmpeg with which every foreign file is opened."""
_FLV_HEADER = re.compile(rb"FLV\x01.\0\0\0\x09", re.DOTALL)
_NOT_VIDEOS = (
    (b"#EXTM3U", "an HLS playlist"),
    (b"ffconcat", "a list of files (ffconcat)"),
    (b"v=0", "a session description (SDP)"),
    (b"version https://git-lfs", "a git-LFS pointer in place of the file (git lfs pull)"),
    (b"<", "a web page or XML file"),
)
"""First bytes of files that are no videos, and what such files are."""

_MARKS_DAMAGE = frozenset(("h264", "hevc"))
"""Decoders that mark damaged frames, and take the first frames of an open group for errors. Others have to stop at errors: a
damaged frame of theirs holds what its memory held before."""


def open_container(location: Location | PartialFile, max_pixels: int = MAX_PIXELS) -> tuple[InputContainer, VideoStream]:
    """Open a file, or what is here of one, and its best video stream, decoded by one thread; others are not read.

    Raises:
        DecodeError: if the file cannot be opened, is of no format that is read, holds no video, or frames of more than
            ``max_pixels``.
    """
    if isinstance(location, PartialFile):
        location.seek(0)
        file: object = location
    else:
        check_exists(location)
        file = io.BytesIO(location) if isinstance(location, bytes) else url_of(location)
    with decode_errors(reason=partial(_open_reason, location)):
        container = av.open(file, metadata_errors="ignore", mode="r", container_options=CONTAINER_OPTIONS)
    try:
        with decode_errors():
            stream = _best_video(container)
            context = stream.codec_context
            check_size(context.width, context.height, max_pixels)
            # Slice threads can dead-lock in loader workers, and cores are busy with other clips anyway.
            stream.thread_type = "NONE"
            context.thread_count = 1
            options = {} if context.name in _MARKS_DAMAGE else {"err_detect": "explode"}
            # For sizes that change within the video; FFmpeg counts the padding of rows, too.
            context.options = {**options, "max_pixels": str(2 * max_pixels + 4096)}
    except DecodeError:
        container.close()
        raise
    return container, stream


def _best_video(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        raise DecodeError("no video in this file" if stream is None else "its codec is not known")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def _open_reason(location: Location | PartialFile, error: BaseException) -> str:
    """Return why ``location`` cannot be opened: by its first bytes where they tell what it is."""
    try:
        head = b"" if isinstance(location, PartialFile) else read_bytes(location, 64)
        if not head and not isinstance(location, PartialFile):
            return "an empty file"
        head = head.lstrip(b"\xef\xbb\xbf \r\n")
    except (OSError, DecodeError):
        head = b""
    for beginning, kind in _NOT_VIDEOS:
        if head.startswith(beginning):
            return f"not a video but {kind}"
    if getattr(error, "errno", None) == errno.EINVAL:
        return f"no container format that is read ({' '.join(CONTAINERS)})"
    return reason_of(error)


def frame_rate(stream: VideoStream) -> float:
    """Return the frames a second: on average, or the rate of its time stamps where no average is known; 0 if neither is."""
    return float(stream.average_rate or stream.base_rate or 0)


def container_name(container: InputContainer) -> str:
    """Return ``mov`` for mp4, mov, 3gp and m4v; ``matroska`` for mkv and webm; ``mpegts``, ``avi``, ..."""
    return str(container.format.name).split(",")[0]


def check_end(container: InputContainer, location: Location | PartialFile, last: Packet | None) -> None:
    """Refuse an FLV file with another one joined to its end: FFmpeg takes that one's header for the end of the file.

    Args:
        container: the opened file.
        location: where it is.
        last: its last packet.

    Raises:
        DecodeError: if there is another one.
    """
    if container_name(container) != "flv" or last is None or last.pos is None or isinstance(location, PartialFile):
        return
    if isinstance(location, str):
        rest = read_bytes(ByteRange(location, last.pos, size_of(location) - last.pos))
    else:
        rest = read_bytes(location)[last.pos :]
    if _FLV_HEADER.search(rest):
        raise DecodeError("another FLV file is joined to its end, which FFmpeg does not read; split it, or encode it anew")


class ClockCheck:
    """A check, packet by packet, that the time stamps of a video go forward, as those of files joined end to end may not."""

    def __init__(self) -> None:
        self.jumps_back = False
        self._decoded = self._shown = -(1 << 63)
        """Newest decoding stamp, and latest presentation stamp, of the packets before."""

    def see(self, packet: Packet) -> None:
        """Look at the next packet in decoding order."""
        if packet.dts is not None:
            self.jumps_back |= packet.dts < self._decoded
            self._decoded = packet.dts
        if packet.pts is not None:
            # What is decoded before a key frame is shown before it.
            self.jumps_back |= packet.is_keyframe and packet.pts < self._shown
            self._shown = max(self._shown, packet.pts)


class SampleTable(NamedTuple):
    """All packets of a video in decoding order, as the header of an mp4 lists them."""

    stamps: np.ndarray
    """int64 (n,), decoding time stamps, ascending."""
    positions: np.ndarray
    """int64 (n,), offset of each packet in the file."""
    keys: np.ndarray
    """int64, ascending numbers of the key frames; the first is 0."""


def sample_table(container: InputContainer, stream: VideoStream, size: int) -> SampleTable | None:
    """Return the table of a plain mp4, without reading a packet; None for files that hide packets or that do not list them all.

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
