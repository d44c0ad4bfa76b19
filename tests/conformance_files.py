"""One small file of every kind that users have, made on the spot, and what a plain decode from start to end makes of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from video_files import write_trimmed, write_turned, write_video

FRAMES = 40
_X265 = "log-level=none:pools=1:frame-threads=1"
_SVT = {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}}
_VP8 = {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}}
_VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "16"}}
_UNEVEN = [33 * number + 11 * (number % 3) for number in range(FRAMES)]

#: Encoded as they are.
ENCODED: dict[str, dict[str, Any]] = {
    "long_group.mp4": {"options": {"g": "250"}},
    "short_group.mp4": {"options": {"g": "4", "bf": "0"}},
    "b_frames.mp4": {"options": {"g": "12", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal"}},
    "b_frames.mkv": {"options": {"bf": "3"}},
    "open_group.mp4": {"options": {"x264-params": "open-gop=1:keyint=15:bframes=3"}},
    "open_group.mkv": {"options": {"x264-params": "open-gop=1:keyint=15:bframes=3"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=15:bframes=0"}},
    "fragmented.mp4": {"options": {"g": "10"}, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "header_first.mp4": {"container": {"movflags": "faststart"}},
    "uneven.mp4": {"milliseconds": _UNEVEN},
    "uneven.mkv": {"milliseconds": _UNEVEN},
    "late_start.mkv": {"milliseconds": [5000 + 40 * number for number in range(FRAMES)]},
    "interlaced.mp4": {"options": {"x264-params": "interlaced=1"}},
    "ten_bits.mp4": {"pixel_format": "yuv420p10le"},
    "full_range.mp4": {"pixel_format": "yuvj420p"},
    "narrow.mp4": {"width": 48, "height": 48},
    "odd.mp4": {"width": 131, "height": 97, "pixel_format": "yuv444p"},
    "high.mp4": {"width": 98, "height": 150},
    "one_frame.mp4": {"frames": 1},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"open-gop=0:keyint=15:{_X265}"}},
    "hevc_open_group.mp4": {"codec": "libx265", "options": {"x265-params": f"open-gop=1:keyint=15:{_X265}"}},
    "av1.mp4": _SVT,
    "av1.webm": _SVT,
    "vp8.webm": _VP8,
    "vp9.webm": _VP9,
    "vp9.mp4": _VP9,
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "packed.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {"options": {"bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mjpeg.mp4": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "transport.ts": {"options": {"g": "10"}},
    "flash.flv": {"options": {"bf": "0"}},
}


class Plain(NamedTuple):
    """A plain decode of all packets in their order."""

    length: int
    frames: dict[int, np.ndarray]
    """Number in order of presentation -> uint8 (H, W, 3), turned upright; frames that fail are left out."""


def write_all(folder: Path) -> list[str]:
    """Write every file into ``folder`` and give their names: those of ``ENCODED``, ``CHANGED`` and ``BROKEN``."""
    # As root, SVT-AV1 gives the thread that calls it real-time priority; every process of later tests would inherit it, and
    # ranks that poll their sockets then leave no core to anyone else.
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    for name, options in ENCODED.items():
        write_video(folder / name, **{"frames": FRAMES, **options})
    os.sched_setscheduler(0, policy, priority)
    for name, (source, change) in {**CHANGED, **BROKEN}.items():
        change(folder / source if source else None, folder / name)
    return [*ENCODED, *CHANGED, *BROKEN]


def plain_decode(path: Path) -> Plain:
    """What FFmpeg makes of ``path`` from start to end, packet by packet, going on behind damage.

    Frames are numbered by the time stamps of the packets that are shown, and by counting where these are missing.
    """
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        packets = [packet for packet in container.demux(stream) if packet.size]
        frames = []
        for packet in [*packets, None]:
            try:
                frames += stream.codec_context.decode(packet)
            except av.FFmpegError:
                pass
        stamps = sorted({packet.pts for packet in packets if packet.pts is not None and not packet.is_discard})
        counted = stream.codec_context.name == "vp8" or path.suffix == ".avi" or None in [packet.pts for packet in packets]
        images = [np.ascontiguousarray(np.rot90(f.to_ndarray(format="rgb24"), round(f.rotation / 90) % 4)) for f in frames]
        if counted:
            return Plain(len(frames), dict(enumerate(images)))
        numbers = {stamp: number for number, stamp in enumerate(stamps)}
        shown = {numbers[frame.pts]: image for frame, image in zip(frames, images, strict=True) if frame.pts in numbers}
        return Plain(len(stamps), shown)


def some_indices(length: int) -> list[np.ndarray]:
    """All, shuffled, the last, some in order, some twice, and every fourth."""
    draw = np.random.default_rng(0)
    return [
        np.arange(length),
        draw.permutation(length),
        np.array([length - 1]),
        np.sort(draw.integers(0, length, 4)),
        np.minimum([5, 5, 2, length - 1, 2], length - 1),
        np.arange(length // 3, length, 4),
    ]


def write_with_sound(source: Path, path: Path) -> None:
    """Copy the video of ``source`` and add a sound track."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        picture = new.add_stream_from_template(old.streams.video[0])
        sound = new.add_stream("aac", rate=48_000)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                new.mux(packet)
        _write_tone(new, sound)


def write_sound_only(_: Path | None, path: Path) -> None:
    """A file without pictures."""
    with av.open(str(path), "w") as new:
        _write_tone(new, new.add_stream("aac", rate=48_000))


def _write_tone(output: av.container.OutputContainer, stream: av.AudioStream) -> None:
    for number in range(30):
        tone = np.sin(np.arange(1024) / 20).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 1024 * number
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


def _content(make: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path | None, Path], None]:
    def write(source: Path | None, path: Path) -> None:
        path.write_bytes(make(bytearray(source.read_bytes() if source else b"")))

    return write


def _flip_bits(data: bytearray) -> bytearray:
    """60 bits in the middle half."""
    draw = np.random.default_rng(0)
    for place in draw.integers(len(data) // 4, 3 * len(data) // 4, 60):
        data[place] ^= 1 << int(draw.integers(8))
    return data


def _zero(data: bytearray) -> bytearray:
    """A fifth, from two fifths on."""
    fifth = len(data) // 5
    data[2 * fifth : 3 * fifth] = bytes(fifth)
    return data


Change = tuple[str | None, Callable[[Path | None, Path], Any]]

#: name -> (file it is made of, how). Sound files.
CHANGED: dict[str, Change] = {
    "edit_list.mp4": ("long_group.mp4", lambda source, path: write_trimmed(source, path, 0.5)),
    "edit_list_late.mp4": ("b_frames.mp4", lambda source, path: write_trimmed(source, path, 0.87)),
    "turned.mp4": ("short_group.mp4", write_turned),
    "with_sound.mp4": ("b_frames.mp4", write_with_sound),
    "take:2 of 3.mp4": ("short_group.mp4", shutil.copyfile),
}

#: Damaged, or no video at all.
BROKEN: dict[str, Change] = {
    "sound_only.mp4": (None, write_sound_only),
    "empty.mp4": (None, _content(lambda _: b"")),
    "text.mp4": (None, _content(lambda _: b"hello " * 100)),
    "half.mp4": ("b_frames.mp4", _content(lambda data: data[: len(data) // 2])),
    "half_header_first.mp4": ("header_first.mp4", _content(lambda data: data[: len(data) // 2])),
    "half.webm": ("vp9.webm", _content(lambda data: data[: len(data) // 2])),
    "half.ts": ("transport.ts", _content(lambda data: data[: len(data) // 2])),
    "flipped.mp4": ("b_frames.mp4", _content(_flip_bits)),
    "flipped.webm": ("vp9.webm", _content(_flip_bits)),
    "flipped.avi": ("packed.avi", _content(_flip_bits)),
    "flipped.ts": ("transport.ts", _content(_flip_bits)),
    "zeros.mp4": ("b_frames.mp4", _content(_zero)),
    "zeros.mkv": ("b_frames.mkv", _content(_zero)),
    "zeros.webm": ("vp9.webm", _content(_zero)),
    "zeros_hevc.mp4": ("hevc.mp4", _content(_zero)),
}
