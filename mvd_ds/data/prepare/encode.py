"""The encoder of ``prepare``: every frame is kept, upright, in its colours, at an even rate, without sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream

from mvd_ds.data.readers.frames import Orientation, orientation_of
from mvd_ds.data.readers.location import Location
from mvd_ds.data.readers.pyav_container import open_container
from mvd_ds.data.readers.video import DecodeError, reason_of
from mvd_ds.files import DISK_FULL, written_aside

_BT601 = 6
_SWSCALE_MATRICES = {1: 1, 2: 2, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""Matrix codes of H.273 (1: BT.709, 2: not said, 5 and 6: BT.601, 9: BT.2020) -> swscale's numbers for them."""
QUALITIES = {"h264": (1, 51), "mjpeg": (2, 31)}
DEFAULT_QUALITY = {"h264": 20, "mjpeg": 5}
"""Default quality of each codec. mjpeg: 40.7 dB against the source on 340 x 256. h264: with x264's macroblock tree it was 40.8;
without it, on two videos of ``bench data``, 20 gives 1.2 and 1.5 dB less in 0.95 of the bytes, and 18 as much in 1.27."""


class Encoding(NamedTuple):
    """The settings of an encoding."""

    codec: str
    """Codec: h264 or mjpeg."""
    quality: int
    """h264: constant rate factor; mjpeg: quantiser, 2 to 31. Smaller is better."""
    group_frames: int = 16
    """h264: frames from a key frame to the next."""
    short_side_px: int | None = None
    """Larger videos are made this small; smaller ones stay as they are."""


def options_of(encoding: Encoding) -> tuple[str, str, dict[str, str]]:
    """Return FFmpeg's encoder, pixel format and options.

    No B frames, no arithmetic coding and no loop filter: a group of 16 alone saves two fifths of the decoding, these save four.
    No macroblock tree: x264's code of it for AVX-512 gives one video other bytes now and then (of 42 x 32: 3 to 11 in 100
    encodings), also in one thread; its code for AVX2 and all else that it does for AVX-512 repeat themselves.
    """
    if encoding.codec == "mjpeg":
        quality = str(encoding.quality)
        # 118 is FFmpeg's FF_QP2LAMBDA.
        options = {"flags": "+qscale", "global_quality": str(118 * encoding.quality), "qmin": quality, "qmax": quality}
        return "mjpeg", "yuvj420p", options
    group = str(encoding.group_frames)
    options = {"preset": "veryfast", "tune": "fastdecode", "crf": str(encoding.quality), "bf": "0", "mbtree": "0"}
    return "libx264", "yuv420p", {**options, "g": group, "keyint_min": group, "sc_threshold": "0"}


def encode(location: Location, target: Path, encoding: Encoding) -> int:
    """Write all frames of ``location`` to the mp4 file ``target``, which is whole or not there, and return their number.

    Raises:
        DecodeError: if one of them cannot be decoded, or is of another size or orientation than the first.
        OSError: if the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    container, stream = open_container(location)
    try:
        with written_aside(target) as aside:
            return _write(container.decode(stream), stream, aside, encoding)
    except DecodeError:
        raise
    except Exception as error:
        if (code := getattr(error, "errno", None)) in DISK_FULL:
            raise OSError(code, os.strerror(code)) from None
        raise DecodeError(reason_of(error)) from None
    finally:
        container.close()


def _write(frames: Iterator[VideoFrame], stream: VideoStream, path: Path, encoding: Encoding) -> int:
    name, pixels, options = options_of(encoding)
    rate = (stream.average_rate or stream.base_rate or Fraction(25)).limit_denominator(1001)
    count = 0
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as output:
        video: Any = None
        for frame in _sound(frames):
            if video is None:
                orientation, colours = orientation_of(frame), Colours.to_write(frame, encoding.codec)
                video = output.add_stream(name, rate=rate, options=options)
                video.width, video.height = _even_size(frame, orientation, encoding.short_side_px)
                video.pix_fmt, video.codec_context.thread_count = pixels, 1
                aspect = stream.sample_aspect_ratio or 0
                video.codec_context.sample_aspect_ratio = 1 / aspect if aspect and orientation.transposed else aspect
                colours.tag(video.codec_context)
            small = colours.reformat(_upright(frame, orientation, colours), video.width, video.height, pixels)
            small.pict_type = 0  # the encoder chooses
            small.pts, small.time_base, count = count, 1 / rate, count + 1
            output.mux(video.encode(small))
        if video is None:
            raise DecodeError("the video holds no frames")
        output.mux(video.encode())
    return count


def _sound(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Yield ``frames``; refuse corrupt ones, and those of another size or orientation than the first."""
    first = None
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise DecodeError(f"frame {number} is corrupt")
        shape = (frame.width, frame.height, orientation_of(frame))
        first = first or shape
        if shape != first:
            raise DecodeError(f"frame {number}: the frame size or orientation changes within the video")
        yield frame


class Colours(NamedTuple):
    """The meaning of a video's numbers as colours, by the codes of ITU-T H.273."""

    matrix: int
    full_range: bool
    """Numbers from 0 to 255, not from 16 to 235."""
    primaries: int
    transfer: int

    @classmethod
    def to_write(cls, frame: VideoFrame, codec: str) -> Colours:
        """Return the colours to write ``frame`` in: its own where ``codec`` can say them, BT.601 otherwise."""
        # Motion JPEG is BT.601 of full range by definition; RGB has no matrix, and others FFmpeg does not convert.
        known = codec != "mjpeg" and int(frame.colorspace) in _SWSCALE_MATRICES
        full_range = codec == "mjpeg" or int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        matrix = int(frame.colorspace) if known and not is_rgb else _BT601
        return cls(matrix, full_range and not (is_rgb and codec != "mjpeg"), int(frame.color_primaries), int(frame.color_trc))

    def tag(self, context: Any) -> None:
        """Have an encoder write these codes."""
        context.colorspace, context.color_range = self.matrix, ColorRange.JPEG if self.full_range else ColorRange.MPEG
        context.color_primaries, context.color_trc = self.primaries, self.transfer

    def reformat(self, frame: VideoFrame, width: int, height: int, pixels: str) -> VideoFrame:
        """Return ``frame`` in these colours, of a size and pixel format."""
        return frame.reformat(
            width,
            height,
            pixels,
            interpolation=Interpolation.BICUBIC,
            dst_colorspace=_SWSCALE_MATRICES[self.matrix],
            dst_color_range=ColorRange.JPEG if self.full_range else ColorRange.MPEG,
            threads=1,
        )


def _upright(frame: VideoFrame, orientation: Orientation, colours: Colours) -> VideoFrame:
    if orientation == Orientation():
        return frame
    planes = colours.reformat(frame, frame.width, frame.height, "yuv444p").to_ndarray()
    turned = VideoFrame.from_ndarray(orientation.apply(planes[..., None])[..., 0], format="yuv444p")
    turned.colorspace = colours.matrix
    turned.color_range = ColorRange.JPEG if colours.full_range else ColorRange.MPEG
    return turned


def _even_size(frame: VideoFrame, orientation: Orientation, short_side: int | None) -> tuple[int, int]:
    """Return width and height to encode: as shown, or with the short side made ``short_side``; even, as 4:2:0 needs."""
    width, height = (frame.height, frame.width) if orientation.transposed else (frame.width, frame.height)
    scale = min((short_side or width) / min(width, height), 1.0) if short_side else 1.0
    return max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 2)
