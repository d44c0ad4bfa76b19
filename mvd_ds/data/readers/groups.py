"""The places of a video's groups of pictures in its file: of a file far away, those with wanted frames are all that is fetched.

Only plain mp4 files of several closed groups have them: each group is decoded alone, and nothing of another one is looked at.
Whoever reads a part of a file is told when a byte was asked for that is not there, and must then read the whole file.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from av.packet import Packet

from mvd_ds.data.readers.location import ByteRange, check_exists, size_of
from mvd_ds.data.readers.partial_file import PartialFile, Span, joined
from mvd_ds.data.readers.pyav_container import SampleTable, frame_rate, open_container, sample_table
from mvd_ds.data.readers.video import decode_errors

GAP_BYTES = 64 << 10
"""Ranges that are closer are fetched as one: it costs less than another request, and FFmpeg reads on over gaps of 32 KiB."""
_PROBE_BYTES = 512
"""Most bytes of a read while it is found out what opening a file reads, since FFmpeg's own reads go on far behind that."""
_TEXT = re.compile(r"([\d.e+-]{1,24}) ([0-9a-f]{8}) (\d{1,18}-\d{1,18}(?:,\d{1,18}-\d{1,18})*)((?: \d{1,9}:\d{1,18}){3,})")


class Groups(NamedTuple):
    """The groups of pictures of a file."""

    fps: float
    """Frames a second, as the opened video says."""
    check: int
    """CRC-32 of the bytes of ``opening``, among them the sizes of all frames: another file has another one."""
    opening: tuple[Span, ...]
    """Bytes that are read when the file is opened: its header, and what FFmpeg probes."""
    firsts: tuple[int, ...]
    """Number of the first frame of each group; then that of all frames."""
    starts: tuple[int, ...]
    """Offset of the first byte of each group; then that behind the last."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.firsts[-1]

    def text(self) -> str:
        """Return the groups in one line: 10 to 20 bytes a group."""
        opening = ",".join(f"{start}-{end}" for start, end in self.opening)
        places = " ".join(f"{first}:{start}" for first, start in zip(self.firsts, self.starts, strict=True))
        return f"{self.fps!r} {self.check:08x} {opening} {places}"

    @classmethod
    def of(cls, text: object, size: int) -> Groups | None:
        """Return the groups that ``text`` says of a file of ``size`` bytes, or None if it says none that can be."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            return None
        opening = tuple(_pair(span, "-") for span in found[3].split(","))
        firsts, starts = zip(*(_pair(place, ":") for place in found[4].split()), strict=True)
        rising = all(a < b for numbers in (firsts, starts) for a, b in pairwise(numbers))
        inside = all(0 <= start < end <= size for start, end in opening) and starts[-1] <= size
        try:
            fps = float(found[1])
        except ValueError:
            return None
        return cls(fps, int(found[2], 16), opening, firsts, starts) if rising and inside and firsts[0] == 0 else None

    def spans(self, wanted: np.ndarray) -> list[Span]:
        """Return what must be there to show frames ``wanted``, ascending, none twice; short gaps are spans of their own."""
        groups = np.unique(np.searchsorted(np.array(self.firsts), wanted, "right") - 1)
        spans: list[Span] = []
        for start, end in sorted([*self.opening, *((self.starts[group], self.starts[group + 1]) for group in groups)]):
            before = spans[-1][1] if spans else start
            if 0 < start - before < GAP_BYTES:
                spans.append((before, start))
            if end > max(start, before):
                spans.append((max(start, before), end))
        return spans


class _ProbedFile(PartialFile):
    """A whole file that notes what is read of it, in short reads, until it is opened."""

    opening: list[Span] | None = None

    def read(self, count: int) -> bytes:
        data = super().read(count if self.opening is None else min(count, _PROBE_BYTES))
        if self.opening is not None:
            self.opening.append((self._place - len(data), self._place))
        return data


def groups_of(location: str | ByteRange) -> Groups | None:
    """Return the groups of pictures of a video; None where only the whole file tells its frames, or it is one group.

    Raises:
        DecodeError: if it cannot be read.
    """
    check_exists(location)
    path, offset = (location, 0) if isinstance(location, str) else (location.path, location.offset)
    size = size_of(location)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = _ProbedFile(descriptor, size, [(0, size)], offset)
        file.opening = []
        container, stream = open_container(file)
        try:
            opening, file.opening = tuple(joined(file.opening)), None
            with decode_errors():
                table = sample_table(container, stream, size)
                starts = _starts(table, container.demux(stream)) if table is not None and len(table.keys) > 1 else None
        finally:
            container.close()
        if table is None or starts is None:
            return None
        check = check_of(os.pread(descriptor, end - start, offset + start) for start, end in opening)
        return Groups(frame_rate(stream), check, opening, (*table.keys.tolist(), len(table.stamps)), starts)
    finally:
        os.close(descriptor)


def check_of(pieces: Iterable[bytes]) -> int:
    """Return the CRC-32 of ``pieces`` in a row."""
    check = 0
    for piece in pieces:
        check = zlib.crc32(piece, check)
    return check


def _starts(table: SampleTable, packets: Iterable[Packet]) -> tuple[int, ...] | None:
    """Return the offset of each group and the end of the last; None unless all packets are where and what the table says.

    They must stand in the file as they are decoded, and each group must be shown after the one before it.
    """
    seen = [(packet.pos, packet.pts, packet.size, packet.is_discard) for packet in packets if packet.size]
    if len(seen) != len(table.positions) or any(pts is None or hidden for _, pts, _, hidden in seen):
        return None
    places, shown, sizes = np.array([row[:3] for row in seen], np.int64).T
    before = np.maximum.accumulate(shown)[table.keys[1:] - 1]
    after = np.minimum.accumulate(shown[::-1])[::-1][table.keys]
    closed = np.array_equal(after, shown[table.keys]) and bool((before < shown[table.keys[1:]]).all())
    ordered = np.array_equal(places, table.positions) and bool((places[1:] >= places[:-1] + sizes[:-1]).all())
    if not closed or not ordered or len(np.unique(shown)) != len(shown):
        return None
    return (*places[table.keys].tolist(), int(places[-1] + sizes[-1]))


def _pair(text: str, mark: str) -> tuple[int, int]:
    first, _, second = text.partition(mark)
    return int(first), int(second)
