"""A scan of a file's packets and its first frame (0.6 ms for a small clip, 2-5 ms for 10 s)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from mvd_ds.data.readers.frames import KEPT_PIXELS, MAX_PIXELS, Orientation, orientation_of
from mvd_ds.data.readers.location import Location
from mvd_ds.data.readers.pyav_container import ClockCheck, check_end, container_name, frame_rate, open_container
from mvd_ds.data.readers.video import decode_errors

_DECORD_CODECS = frozenset(("h264", "hevc", "vp9"))
_PLAIN_CONTAINERS = frozenset(("mov", "matroska"))
_EIGHT_BITS = frozenset(("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"))
_NARROW_PX = 96
_IDR = 5
"""NAL unit type of an H.264 picture at which decoding can begin without anything before it."""


class Scan(NamedTuple):
    """The properties of a video that a scan sees."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    """As stored: before a rotation that the header asks for."""
    fps: float
    """Frames a second, on average; 0 where the file does not say."""
    frames: int
    """Number of packets that are shown."""
    keyframes: int
    declared_frames: float
    """Number of frames that the header promises."""
    interlaced: bool
    edit_list: bool
    """Packets are hidden: the file was cut without encoding it anew."""
    uneven: bool
    """Variable frame rate: frames are shown for different times."""
    stamped: bool
    """Every packet has a time stamp of its own."""
    jumps_back: bool
    """Time stamps jump back, as those of files joined end to end."""
    orientation: Orientation
    """Orientation of the first frame."""
    key_first: bool
    open_group: bool
    """A group of pictures needs the one before it."""


def scan_file(location: Location, max_pixels: int = MAX_PIXELS) -> Scan:
    """Look at the packets of ``location`` and decode its first frame.

    Raises:
        DecodeError: if it cannot be opened, holds no video, or frames of more than ``max_pixels``.
    """
    container, stream = open_container(location, max_pixels)
    try:
        with decode_errors():
            context = stream.codec_context
            declared = stream.frames or (container.duration or 0) / 1e6 * frame_rate(stream)
            packets = [packet for packet in container.demux(stream) if packet.size]
            check_end(container, location, packets[-1] if packets else None)
            clock = ClockCheck()
            for packet in packets:
                clock.see(packet)
            return Scan(
                container=container_name(container),
                codec=context.name,
                pixel_format=context.pix_fmt or "unknown",
                width=context.width,
                height=context.height,
                fps=frame_rate(stream),
                frames=sum(not packet.is_discard for packet in packets),
                keyframes=sum(packet.is_keyframe for packet in packets),
                declared_frames=declared,
                interlaced=context.field_order > 1,
                edit_list=any(packet.is_discard for packet in packets),
                uneven=_is_uneven(packets),
                stamped=len({packet.pts for packet in packets} - {None}) == len(packets),
                jumps_back=clock.jumps_back,
                key_first=bool(packets) and packets[0].is_keyframe,
                open_group=_has_open_group(packets, stream),
                orientation=_orientation(packets, stream),
            )
    finally:
        container.close()


def _orientation(packets: list[Packet], stream: VideoStream) -> Orientation:
    """Return the orientation of the first frame that can be decoded."""
    try:
        for packet in [*packets, None]:
            for frame in stream.codec_context.decode(packet):
                return orientation_of(frame)
    except FFmpegError:
        pass  # whoever wants the frames is told
    return Orientation()


def not_for_decord(scan: Scan) -> str:
    """Return why decord must not read a file (it gives wrong frames, hangs or ends the process); empty if it may."""
    reason = _not_plain(scan)
    if reason:
        return reason
    if scan.codec not in _DECORD_CODECS:
        return f"codec {scan.codec}"
    # decord 0.6 takes the padding of rows for a fourth colour: 48 px wide frames come out as (48, 48, 4), sheared.
    if scan.width < _NARROW_PX and scan.width % 32:
        return f"{scan.width} px wide"
    # It reserves memory for as many frames as the header promises, and ends the process where there is none.
    if scan.declared_frames > 2 * scan.frames + 100:
        return f"{scan.declared_frames:.0f} frames in the header, {scan.frames} in the file"
    if scan.edit_list:
        return "edit list"
    return "open group of pictures" if scan.open_group else ""


def not_for_torchcodec(scan: Scan) -> str:
    """Return why torchcodec must not read a file, of which it gives wrong frames; empty if it may."""
    reason = _not_plain(scan)
    # Open groups it reads, but takes a gradual refresh for a key frame; both look alike.
    return reason or ("open group of pictures" if scan.open_group and scan.codec == "h264" else "")


def _not_plain(scan: Scan) -> str:
    """Return why only PyAV may read a file; empty if others may."""
    if scan.container not in _PLAIN_CONTAINERS:
        return f"container {scan.container}"
    # Versions of FFmpeg convert the colours of these differently.
    if scan.pixel_format not in _EIGHT_BITS:
        return f"pixel format {scan.pixel_format}"
    if scan.interlaced:
        return "interlaced"
    if not scan.stamped:
        return "time stamps missing or twice"
    if scan.jumps_back:
        return "time stamps that jump back"
    if scan.orientation.mirrors:
        return "mirrored"
    if scan.width * scan.height > KEPT_PIXELS:
        return f"frames of {scan.width} x {scan.height} pixels, which are scaled down"
    return "" if scan.key_first else "no key frame at the start"


def _is_uneven(packets: list[Packet]) -> bool:
    stamps = np.sort([packet.pts for packet in packets if packet.pts is not None and not packet.is_discard])
    steps = np.diff(stamps)
    # Matroska counts milliseconds: 33, 33, 34 is an even rate.
    return bool(len(steps)) and int(steps.max() - steps.min()) > max(1, 0.05 * float(np.median(steps)))


def _has_open_group(packets: list[Packet], stream: VideoStream) -> bool:
    newest_key = None
    for packet in packets:
        if packet.is_keyframe:
            newest_key = packet.pts
            if stream.codec_context.name == "h264" and _IDR not in _h264_units(packet, stream.codec_context.extradata):
                return True
        elif newest_key is not None and packet.pts is not None and packet.pts < newest_key:
            return True
    return False


def _h264_units(packet: Packet, header: bytes | None) -> set[int]:
    """Return the NAL unit types of a packet, whose units follow their length (mp4, mkv) or a start code (transport streams)."""
    data = bytes(packet)
    if header is None or len(header) < 5 or header[0] != 1:
        return {part[0] & 31 for part in data.split(b"\0\0\1")[1:] if part}
    width, place, found = (header[4] & 3) + 1, 0, set()
    while place + width < len(data):
        found.add(data[place + width] & 31)
        place += width + int.from_bytes(data[place : place + width], "big")
    return found
