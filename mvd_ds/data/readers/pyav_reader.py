"""The reader by PyAV: exact on every file, whatever its edit list, time stamps or group structure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from mvd_ds.data.readers.frames import MAX_PIXELS, FrameBuffer
from mvd_ds.data.readers.location import Location, size_of
from mvd_ds.data.readers.partial_file import PartialFile
from mvd_ds.data.readers.pyav_container import (
    ClockCheck,
    SampleTable,
    check_end,
    container_name,
    frame_rate,
    open_container,
    sample_table,
)
from mvd_ds.data.readers.video import DecodeError, Video, check_indices, decode_errors

KEEP_BYTES = 256 << 20
"""Packets of smaller files are kept in memory; larger files without a table are read again for every ``get``."""
_SKIPPABLE = frozenset(("h264", "hevc", "mpeg4"))
"""Codecs whose disposable frames can be left out without changing a byte of the others."""
_HIDDEN_PACKETS = frozenset(("vp8",))
"""Codecs with packets that show nothing: frames are counted by decoding."""
_STAMPED = frozenset(("mov", "matroska", "mpegts", "mpeg", "flv", "gif"))
"""Containers whose presentation time stamps are true. AVI has none: there, too, frames are counted by decoding."""


class _Listing(NamedTuple):
    """Packets in a row, and the frames that they show."""

    first: int
    """Number of the first frame in the video."""
    packets: list[Packet] | None
    """The packets; None: too large to keep."""
    stamps: np.ndarray
    """int64 (packets,), presentation time stamps in decoding order."""
    keys: np.ndarray
    """int64, ascending places of key frames."""
    order: np.ndarray
    """int64 (frames,), places of the shown packets, in order of presentation."""


class PyavVideo(Video):
    """A video read by PyAV.

    Frames are the shown packets in order of their time stamps; where these are missing, repeated or jump back (files joined
    end to end), they are the decoder's output from start to end, in its order. Of an mp4 whose table of samples is plain,
    only the groups of pictures that hold wanted frames are read, and the table's entries are checked against them; of all
    other files, or where that check fails, all packets are listed once (1 to 4 ms for ten seconds at 340 x 256), because on
    some files seeking does not land where it was sent. Decoding begins at the key frame before a wanted frame and ends with
    the last one.
    """

    reader = "pyav"

    def __init__(self, location: Location | PartialFile, max_pixels: int = MAX_PIXELS) -> None:
        """Open ``location``; of a file that is here in part, whose groups are known to be closed, only wanted ones are read.

        Raises:
            DecodeError: if that fails, the file shows no frame, or frames of more than ``max_pixels``.
        """
        self._location, self._max_pixels = location, max_pixels
        self._container, self._stream = open_container(location, max_pixels)
        try:
            with decode_errors():
                self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Find out how many frames there are, and how to reach them."""
        self.fps = frame_rate(self._stream)
        self._size = self._location.size if isinstance(self._location, PartialFile) else size_of(self._location)
        self._skips = self._stream.codec_context.name in _SKIPPABLE
        self._whole: _Listing | None = None
        self._table = sample_table(self._container, self._stream, self._size)
        if self._table is not None:
            self._length = len(self._table.stamps)
        else:
            self._list_all()

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        self._whole = None
        self._container.close()

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, len(self))
        wanted, back = np.unique(indices, return_inverse=True)
        with decode_errors():
            images = self._images(wanted)
        return images if len(back) == len(wanted) and np.array_equal(indices, wanted) else images[back]

    def _images(self, wanted: np.ndarray) -> np.ndarray:
        """Return frames ``wanted`` (ascending), uint8 (T, H, W, C)."""
        if self._table is not None:
            buffer = FrameBuffer(len(wanted))
            if self._decode_by_table(self._table, wanted, buffer):
                return buffer.images()
            self._give_up_table()
        buffer = FrameBuffer(len(wanted))
        if self._whole is None:
            self._decode_counted(wanted, buffer)
        else:
            self._decode_listed(self._whole, wanted, buffer, 0)
        for row, index in enumerate(wanted.tolist()):
            if row not in buffer:
                raise DecodeError(f"frame {index} of {len(self)} could not be decoded")
        return buffer.images()

    def _decode_by_table(self, table: SampleTable, wanted: np.ndarray, buffer: FrameBuffer) -> bool:
        """Fill ``buffer``; False if the table is wrong about the groups of pictures, or they need others to be decoded."""
        row = 0
        for listing, part in self._listings_of(table, wanted) or ():
            self._decode_listed(listing, part, buffer, row)
            row += len(part)
        return len(buffer) == len(wanted)

    def _give_up_table(self) -> None:
        listed = self._length
        self._table = None
        self._container.close()
        self._container, self._stream = open_container(self._location, self._max_pixels)
        self._list_all()
        if self._length != listed:
            raise DecodeError(f"its header lists {listed} frames, the file holds {self._length}")

    def _listings_of(self, table: SampleTable, wanted: np.ndarray) -> list[tuple[_Listing, np.ndarray]] | None:
        """List the groups of pictures that show ``wanted`` (ascending), neighbours together; None if the table is wrong."""
        groups = np.searchsorted(table.keys, wanted, "right") - 1
        found = []
        for part in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(groups) > 1) + 1):
            listing = self._read_groups(table, int(groups[part[0]]), int(groups[part[-1]]))
            if listing is None:
                return None
            found.append((listing, wanted[part]))
        return found

    def _read_groups(self, table: SampleTable, first_group: int, last_group: int) -> _Listing | None:
        """Read groups of pictures in a row; None unless they are what the table says and show just their own frames."""
        first = int(table.keys[first_group])
        end = int(table.keys[last_group + 1]) if last_group + 1 < len(table.keys) else len(table.stamps)
        # The two packets after them show whether the next group begins with frames that are shown before its key frame.
        looked_at = end if isinstance(self._location, PartialFile) else min(end + 2, len(table.stamps))
        packets = self._read_packets(table, first, looked_at)
        if packets is None:
            return None
        stamps = np.array([packet.pts for packet in packets], np.int64)
        inside, after = stamps[: end - first], stamps[end - first :]
        closed = inside.min() == inside[0] and (not len(after) or after.min() == after[0] > inside.max())
        if not closed or len(np.unique(inside)) != len(inside):
            return None
        keys = table.keys[first_group : last_group + 1] - first
        return _Listing(first, packets[: end - first], inside, keys, np.argsort(inside))

    def _read_packets(self, table: SampleTable, first: int, end: int) -> list[Packet] | None:
        """Read packets ``first`` to ``end - 1``; None unless they stand where the table says."""
        # The table holds decoding times, seeking takes presentation times: they differ as those of the first frame do.
        shift = (self._stream.start_time or 0) - int(table.stamps[0])
        self._container.seek(int(table.stamps[first]) + shift, stream=self._stream)
        packets: list[Packet] = []
        for packet in self._container.demux(self._stream):
            place = first + len(packets)
            if not packets and packet.pos is not None and packet.pos < table.positions[first] and packet.size:
                continue
            if not packet.size or packet.pts is None or packet.is_discard or packet.pos != table.positions[place]:
                return None
            packets.append(packet)
            if place + 1 == end:
                return packets
        return None

    def _list_all(self) -> None:
        """List the packets of the whole file, or count its frames where packets do not tell them."""
        keep = self._size <= KEEP_BYTES
        packets, stamps, keys, shown = [], [], [], []
        clock, last = ClockCheck(), None
        for packet in self._container.demux(self._stream):
            if packet.size:
                clock.see(packet)
                stamps.append(packet.pts)
                keys.append(packet.is_keyframe)
                shown.append(not packet.is_discard)
                if keep:
                    packets.append(packet)
                last = packet
        check_end(self._container, self._location, last)
        counted = self._stream.codec_context.name in _HIDDEN_PACKETS or container_name(self._container) not in _STAMPED
        if counted or clock.jumps_back or None in stamps or len(set(stamps)) != len(stamps):
            self._length = sum(1 for _ in self._decode(self._read_again(0)))
        else:
            numbers, times = np.flatnonzero(shown), np.array(stamps, np.int64)
            order = numbers[np.argsort(times[numbers])]
            self._whole = _Listing(0, packets if keep else None, times, np.flatnonzero(keys), order)
            self._length = len(order)
        if not self._length:
            raise DecodeError("the video holds no frames")

    def _read_again(self, first: int) -> Iterator[Packet]:
        """Yield the packets from number ``first`` on, read from the file's beginning."""
        self._container.close()
        self._container, self._stream = open_container(self._location, self._max_pixels)
        number = 0
        for packet in self._container.demux(self._stream):
            if packet.size:
                if number >= first:
                    yield packet
                number += 1

    def _decode(self, packets: Iterable[Packet], needed: frozenset[int] | None = None) -> Iterator[VideoFrame]:
        """Yield frames decoded from ``packets``; with ``needed``, of disposable ones only those with such a time stamp.

        Packets after the last needed one are not decoded: the decoder is told that the stream ends.
        """
        packets = iter(packets)
        packet = next(packets, None)
        decoder = self._stream.codec_context
        decoder.flush_buffers()
        missing = len(needed) if needed is not None else -1
        while packet is not None and missing:
            if needed is not None:
                is_needed = packet.pts in needed
                missing -= is_needed
                if self._skips:
                    decoder.skip_frame = "DEFAULT" if is_needed else "NONREF"
            yield from decoder.decode(packet)
            packet = next(packets, None)
        yield from decoder.decode(None)

    def _decode_listed(self, listing: _Listing, wanted: np.ndarray, buffer: FrameBuffer, first_row: int) -> None:
        """Write frames ``wanted`` (ascending) to ``buffer`` from ``first_row`` on, each decoded from its key frame."""
        places = listing.order[wanted - listing.first]
        keys, stamps = listing.keys, listing.stamps
        groups: dict[int, dict[int, int]] = {}
        for row, place in enumerate(places, first_row):
            # A frame shown before the key frame that precedes it in the file belongs to the key frame before that one.
            before = np.flatnonzero((keys <= place) & (stamps[keys] <= stamps[place]))
            groups.setdefault(int(before[-1]) if len(before) else -1, {})[int(stamps[place])] = row
        for key, rows in groups.items():
            self._decode_group(listing, key, rows, buffer)

    def _decode_group(self, listing: _Listing, key: int, rows: dict[int, int], buffer: FrameBuffer) -> None:
        """Write the frames at the time stamps ``rows`` to these rows, decoded from key frame ``key`` (-1: the first packet).

        Where it turns out to be no true key frame (gradual refresh: the decoder keeps what is not yet whole), from the one
        before it.
        """
        needed = frozenset(rows)
        while True:
            first = int(listing.keys[key]) if key >= 0 else 0
            packets = listing.packets[first:] if listing.packets is not None else self._read_again(first)
            for frame in self._decode(packets, needed):
                # Those decoded later may be made of it, and the decoder marks none but the first.
                if frame.is_corrupt:
                    raise DecodeError("the video is corrupt in or before one of the wanted frames")
                if frame.pts in needed:
                    buffer.put(rows[frame.pts], frame)
            if all(row in buffer for row in rows.values()) or not first:
                return
            key -= 1

    def _decode_counted(self, wanted: np.ndarray, buffer: FrameBuffer) -> None:
        """Write frames number ``wanted`` (ascending) to ``buffer``, by counting from the first."""
        rows = {number: row for row, number in enumerate(wanted.tolist())}
        for number, frame in enumerate(self._decode(self._read_again(0))):
            if frame.is_corrupt:
                raise DecodeError("the video is corrupt in or before one of the wanted frames")
            if number in rows:
                buffer.put(rows[number], frame)
                if len(buffer) == len(wanted):
                    return
