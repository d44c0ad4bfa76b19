"""Videos encoded anew, for readers: every frame kept, upright, at an even rate, without sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from mvd_ds.data.readers.location import Location
from mvd_ds.data.readers.pyav_container import READ_ERRORS, open_container
from mvd_ds.data.readers.video import DecodeError, reason_of
from mvd_ds.files import DISK_FULL, written_aside

QUALITIES = {"h264": (1, 51), "mjpeg": (2, 31)}
DEFAULT_QUALITY = {"h264": 20, "mjpeg": 5}
"""40.8 and 40.7 dB against the source on 340 x 256."""


class Encoding(NamedTuple):
    """How to encode."""

    codec: str
    """h264 or mjpeg."""
    quality: int
    """h264: constant rate factor; mjpeg: quantiser, 2 to 31. Smaller is better."""
    group_frames: int = 16
    """h264: frames from a key frame to the next."""
    short_side_px: int | None = None
    """Larger videos are made this small; smaller ones stay as they are."""


def options_of(encoding: Encoding) -> tuple[str, str, dict[str, str]]:
    """FFmpeg's encoder, pixel format and options.

    No B frames, no arithmetic coding and no loop filter: a group of 16 alone saves two fifths of the decoding, these save four.
    """
    if encoding.codec == "mjpeg":
        quality = str(encoding.quality)
        # 118 is FFmpeg's FF_QP2LAMBDA.
        options = {"flags": "+qscale", "global_quality": str(118 * encoding.quality), "qmin": quality, "qmax": quality}
        return "mjpeg", "yuvj420p", options
    group = str(encoding.group_frames)
    options = {"preset": "veryfast", "tune": "fastdecode", "crf": str(encoding.quality), "bf": "0"}
    return "libx264", "yuv420p", {**options, "g": group, "keyint_min": group, "sc_threshold": "0"}


def encode(location: Location, target: Path, encoding: Encoding) -> int:
    """Write all frames of ``location`` to the mp4 file ``target``, which is whole or not there, and give their number.

    Raises:
        DecodeError: if one of them cannot be decoded.
        OSError: if the disk is full.
    """
    name, pixels, options = options_of(encoding)
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    container, stream = open_container(location)
    try:
        rate = (stream.average_rate or Fraction(25)).limit_denominator(1001)
        with (
            written_aside(target) as aside,
            av.open(f"file:{aside}", "w", format="mp4", options={"movflags": "+faststart"}) as output,
        ):
            video: Any = None
            for frame in _upright(container.decode(stream)):
                if video is None:
                    video = output.add_stream(name, rate=rate, options=options)
                    video.width, video.height = _even_size(frame, encoding.short_side_px)
                    video.pix_fmt, video.codec_context.thread_count = pixels, 1
                small = frame.reformat(video.width, video.height, pixels, interpolation=Interpolation.BICUBIC, threads=1)
                small.pts, small.time_base, count = count, 1 / rate, count + 1
                output.mux(video.encode(small))
            if video is None:
                raise DecodeError("the video holds no frames")
            output.mux(video.encode())
    except READ_ERRORS as error:
        if (code := getattr(error, "errno", None)) in DISK_FULL:
            raise OSError(code, os.strerror(code)) from None
        raise DecodeError(reason_of(error)) from None
    finally:
        container.close()
    return count


def _upright(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise DecodeError(f"frame {number} is corrupt")
        turns = round(frame.rotation / 90) % 4
        if turns:
            pixels: np.ndarray = frame.to_ndarray(format="rgb24")
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(pixels, turns), np.uint8), format="rgb24")
        frame.pict_type = 0  # the encoder chooses
        yield frame


def _even_size(frame: VideoFrame, short_side: int | None) -> tuple[int, int]:
    """Width and height to encode: as they are, or with the short side made ``short_side``; even, as 4:2:0 needs."""
    short = min(frame.width, frame.height)
    scale = min((short_side or short) / short, 1.0)
    return max(round(frame.width * scale / 2) * 2, 2), max(round(frame.height * scale / 2) * 2, 2)
