"""Which reader a file needs, by looking at its packets without decoding them (0.6 ms for a small clip, 2-5 ms for 10 s)."""

from __future__ import annotations

from typing import NamedTuple

from av.video.codeccontext import VideoCodecContext

from mvd_ds.data.pyav_reader import READ_ERRORS, open_container
from mvd_ds.data.video import DecodeError, one_line

_CONTAINERS = frozenset(("mov", "matroska"))
_CODECS = frozenset(("h264", "hevc", "vp9", "mpeg4"))
_EIGHT_BITS = frozenset(("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"))
NARROW_PX = 96


class Scan(NamedTuple):
    """What was seen of a file."""

    frames: int
    """Packets that are shown."""
    reason: str
    """Why decord must not read it; empty if it may."""


def scan_file(path: str) -> Scan:
    """Look at the packets of ``path``.

    Raises:
        DecodeError: if it cannot be opened or holds no video.
    """
    container, stream = open_container(path)
    try:
        context = stream.codec_context
        reason = _reason_in_header(container.format.name, context)
        if reason:
            return Scan(0, reason)
        declared = stream.frames or (container.duration or 0) / 1e6 * float(stream.average_rate or 0)
        packets = [(p.pts, p.is_keyframe, p.is_discard) for p in container.demux(stream) if p.size]
    except READ_ERRORS as error:
        raise DecodeError(one_line(error)) from None
    finally:
        container.close()
    # decord reserves memory for as many frames as the header promises, and ends the process where there is none.
    if declared > 2 * len(packets) + 100:
        return Scan(len(packets), f"{declared:.0f} frames in the header, {len(packets)} in the file")
    return Scan(len(packets), _reason_in_packets(packets))


def _reason_in_header(container: str, context: VideoCodecContext) -> str:
    if container.split(",")[0] not in _CONTAINERS:
        return f"container {container.split(',')[0]}"
    if context.name not in _CODECS:
        return f"codec {context.name}"
    if context.pix_fmt not in _EIGHT_BITS:
        return f"pixel format {context.pix_fmt}"
    # The two readers' FFmpeg versions convert the colours of interlaced frames differently.
    if context.field_order > 1:
        return "interlaced"
    # decord 0.6 takes the padding of rows for a fourth colour: 48 px wide frames come out as (48, 48, 4), sheared.
    if context.width < NARROW_PX and context.width % 32:
        return f"{context.width} px wide"
    return ""


def _reason_in_packets(packets: list[tuple[int | None, bool, bool]]) -> str:
    if any(discard for _, _, discard in packets):
        return "edit list"
    stamps = [stamp for stamp, _, _ in packets if stamp is not None]
    if len(set(stamps)) != len(packets):
        return "time stamps missing or twice"
    if packets and not packets[0][1]:
        return "no key frame at the start"
    newest_key = None
    for stamp, (_, key, _) in zip(stamps, packets, strict=True):
        if key:
            newest_key = stamp
        elif newest_key is not None and stamp < newest_key:
            return "open group of pictures"
    return ""
