"""Frames by PyAV: exact on every file, whatever its edit list, time stamps or group structure."""

from __future__ import annotations

import os
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from mvd_ds.data.video import DecodeError, Video, check_indices, one_line

# FFmpeg's messages go through Python otherwise, which dead-locks in loader workers.
av.logging.set_level(None)

READ_ERRORS = (FFmpegError, OSError, ValueError, IndexError)
"""What PyAV raises on damaged files (IndexError: a stream that its container does not list)."""
KEEP_BYTES = 256 << 20
"""Packets of smaller files are kept in memory; larger files are read again for every ``get``."""
_SKIPPABLE = frozenset(("h264", "hevc", "mpeg4"))
"""Codecs whose disposable frames can be left out without changing a byte of the others."""
_HIDDEN_PACKETS = frozenset(("vp8",))
"""Codecs with packets that show nothing: frames are counted by decoding."""
_STAMPED = frozenset(("mov", "matroska", "mpegts", "mpeg", "flv", "gif"))
"""Containers whose presentation time stamps are true. AVI has none: there, too, frames are counted by decoding."""


def open_container(path: str) -> tuple[InputContainer, VideoStream]:
    """An opened file and its best video stream, decoded by one thread.

    Raises:
        DecodeError: if the file cannot be opened or holds no video.
    """
    try:
        container = av.open(path, metadata_errors="ignore")
    except READ_ERRORS as error:
        raise DecodeError(one_line(error)) from None
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        container.close()
        raise DecodeError("no video in this file" if stream is None else "its codec is not known")
    # Slice threads can dead-lock in loader workers, and cores are busy with other clips anyway.
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


class PyavVideo(Video):
    """A video read by PyAV.

    All packets are listed once (2 ms for ten seconds at 340 x 256); frames are the shown packets in order of their time
    stamps. Decoding begins at the key frame before a wanted frame and ends with the last one. There is no seeking: on
    some files it does not land where it was sent.
    """

    reader = "pyav"

    def __init__(self, path: str) -> None:
        """Open and list ``path``.

        Raises:
            DecodeError: if that fails, or the file shows no frame.
        """
        self._path = path
        self._container, self._stream = open_container(path)
        self._packets: list[Packet] | None = None
        try:
            self._list_packets()
        except READ_ERRORS as error:
            self.close()
            raise DecodeError(one_line(error)) from None
        except DecodeError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        self._packets = None
        self._container.close()

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, len(self))
        wanted, back = np.unique(indices, return_inverse=True)
        try:
            frames = self._decode_listed(wanted) if self._order is not None else self._decode_counted(wanted)
            images = _to_rgb(frames)
        except READ_ERRORS as error:
            raise DecodeError(one_line(error)) from None
        return images if len(back) == len(wanted) and np.array_equal(indices, wanted) else images[back]

    def _list_packets(self) -> None:
        codec = self._stream.codec_context.name
        stamped = self._container.format.name.split(",")[0] in _STAMPED
        keep = os.path.getsize(self._path) <= KEEP_BYTES
        packets, stamps, keys, shown = [], [], [], []
        for packet in self._container.demux(self._stream):
            if packet.size:
                stamps.append(packet.pts)
                keys.append(packet.is_keyframe)
                shown.append(not packet.is_discard)
                if keep:
                    packets.append(packet)
        self._packets = packets if keep else None
        self._skips = codec in _SKIPPABLE
        self._order: np.ndarray | None = None
        if None in stamps or len(set(stamps)) != len(stamps) or codec in _HIDDEN_PACKETS or not stamped:
            self._length = sum(1 for _ in self._decode(0))
        else:
            self._stamps = np.array(stamps, np.int64)
            self._keys = np.flatnonzero(keys)
            numbers = np.flatnonzero(shown)
            self._order = numbers[np.argsort(self._stamps[numbers])]
            self._length = len(numbers)
        if not self._length:
            raise DecodeError("the video holds no frames")

    def _read_packets(self, first: int) -> Iterator[Packet]:
        """Packets from number ``first`` on, in decoding order."""
        if self._packets is not None:
            yield from self._packets[first:]
            return
        self._container.close()
        self._container, self._stream = open_container(self._path)
        number = 0
        for packet in self._container.demux(self._stream):
            if packet.size:
                if number >= first:
                    yield packet
                number += 1

    def _decode(self, first: int, needed: frozenset[int] | None = None) -> Iterator[VideoFrame]:
        """Frames decoded from packet ``first`` on; of disposable ones only those whose time stamp is ``needed``."""
        packets = self._read_packets(first)
        packet = next(packets, None)
        decoder = self._stream.codec_context
        decoder.flush_buffers()
        while packet is not None:
            if needed is not None and self._skips:
                decoder.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            yield from decoder.decode(packet)
            packet = next(packets, None)
        yield from decoder.decode(None)

    def _decode_listed(self, wanted: np.ndarray) -> list[VideoFrame]:
        """Frames number ``wanted`` (ascending), each decoded from the key frame it depends on."""
        assert self._order is not None
        groups: dict[int, list[int]] = {}
        for number in self._order[wanted]:
            # A frame shown before the key frame that precedes it in the file belongs to the key frame before that one.
            before = self._keys[(self._keys <= number) & (self._stamps[self._keys] <= self._stamps[number])]
            groups.setdefault(int(before[-1]) if len(before) else 0, []).append(int(self._stamps[number]))
        found: dict[int, VideoFrame] = {}
        for first, stamps in groups.items():
            needed = frozenset(stamps)
            missing = set(stamps)
            for frame in self._decode(first, needed):
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    found[frame.pts] = frame
                    if not missing:
                        break
        stamps = self._stamps[self._order[wanted]].tolist()
        for index, stamp in zip(wanted.tolist(), stamps, strict=True):
            if stamp not in found:
                raise DecodeError(f"frame {index} of {len(self)} could not be decoded")
            if found[stamp].is_corrupt:
                raise DecodeError(f"frame {index} of {len(self)} is corrupt")
        return [found[stamp] for stamp in stamps]

    def _decode_counted(self, wanted: np.ndarray) -> list[VideoFrame]:
        """Frames number ``wanted`` (ascending) by counting from the first."""
        numbers = set(wanted.tolist())
        found = []
        for number, frame in enumerate(self._decode(0)):
            if number in numbers:
                found.append(frame)
                if len(found) == len(numbers):
                    return found
        raise DecodeError(f"only {len(found)} of {len(numbers)} frames could be decoded")


def _to_rgb(frames: list[VideoFrame]) -> np.ndarray:
    """uint8 (T, H, W, C) of decoded frames, turned upright."""
    height, width = frames[0].height, frames[0].width
    images = np.empty((len(frames), height, width, 3), np.uint8)
    reformatter = VideoReformatter()
    for image, frame in zip(images, frames, strict=True):
        if (frame.height, frame.width) != (height, width):
            raise DecodeError("the frame size changes within the video")
        # One thread: starting one per core costs ten times the conversion of a small frame.
        rgb = reformatter.reformat(frame, format="rgb24", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        image[:] = rows[:, : width * 3].reshape(height, width, 3)
    turns = round(frames[0].rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(images, turns, (1, 2))) if turns else images
