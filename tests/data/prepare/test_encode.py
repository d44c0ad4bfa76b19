"""Encoding anew: colours, aspect ratio and codes survive or are converted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.readers.decode import read_frames
from video_files import picture, write_video

#: Pixel format, and (matrix, range, primaries, transfer) by the codes of H.273 and FFmpeg's of the range.
SOURCES: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "untagged": ("yuv420p", (2, 0, 2, 2)),
    "bt709": ("yuv420p", (1, 1, 1, 1)),
    "bt709 full": ("yuv420p", (1, 2, 1, 1)),
    "full alone": ("yuv420p", (2, 2, 2, 2)),
    "fcc": ("yuv420p", (4, 1, 4, 4)),
    "bt470bg": ("yuv420p", (5, 1, 5, 5)),
    "smpte170m": ("yuv420p", (6, 1, 6, 6)),
    "smpte240m": ("yuv420p", (7, 1, 7, 7)),
    "pq": ("yuv420p10le", (9, 1, 9, 16)),
    "hlg": ("yuv420p10le", (9, 1, 9, 18)),
    "rgb": ("rgb24", (0, 2, 1, 13)),
}


def write(path: Path, pixel_format: str, codes: tuple[int, int, int, int], aspect: Fraction | None = None) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264rgb" if pixel_format == "rgb24" else "libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixel_format
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = codes
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture(number, 0, 128, 96), format="rgb24")
            frame = frame.reformat(format=pixel_format, dst_colorspace={6: 5}.get(codes[0], codes[0]), dst_color_range=codes[1])
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def codes_of(path: Path) -> tuple[int, ...]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return tuple(map(int, (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)))


def psnr(one: Path, other: Path) -> float:
    error = read_frames(str(one), np.arange(4)).astype(float) - read_frames(str(other), np.arange(4))
    return float(10 * np.log10(255**2 / (error**2).mean()))


@pytest.mark.parametrize("name", SOURCES)
def test_colours_and_codes_survive_h264(tmp_path: Path, name: str) -> None:
    pixel_format, codes = SOURCES[name]
    write(tmp_path / "source.mp4", pixel_format, codes)
    encode(str(tmp_path / "source.mp4"), tmp_path / "encoded.mp4", Encoding("h264", 2))
    # RGB has no matrix: it becomes BT.601 of limited range, and says so.
    assert codes_of(tmp_path / "encoded.mp4") == ((6, 1, *codes[2:]) if name == "rgb" else codes)
    assert psnr(tmp_path / "source.mp4", tmp_path / "encoded.mp4") > (36 if name == "rgb" else 40)


@pytest.mark.parametrize("name", SOURCES)
def test_motion_jpeg_is_converted_to_its_own_colours(tmp_path: Path, name: str) -> None:
    pixel_format, codes = SOURCES[name]
    write(tmp_path / "source.mp4", pixel_format, codes)
    encode(str(tmp_path / "source.mp4"), tmp_path / "encoded.mp4", Encoding("mjpeg", 2))
    assert codes_of(tmp_path / "encoded.mp4") == (5, 2, *codes[2:])
    assert psnr(tmp_path / "source.mp4", tmp_path / "encoded.mp4") > 36


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_the_sample_aspect_ratio_survives(tmp_path: Path, codec: str) -> None:
    write(tmp_path / "source.mp4", "yuv420p", (1, 1, 1, 1), Fraction(4, 3))
    encode(str(tmp_path / "source.mp4"), tmp_path / "encoded.mp4", Encoding(codec, 5))
    with av.open(str(tmp_path / "encoded.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_one_video_always_gives_the_same_bytes(tmp_path: Path) -> None:
    source = str(write_video(tmp_path / "source.mp4", frames=40, width=160, height=120, seed=10))
    encoded = set()
    # With x264's macroblock tree, on a CPU with AVX-512, 3 to 11 of them were others.
    for _ in range(100):
        encode(source, tmp_path / "encoded.mp4", Encoding("h264", 20, short_side_px=32))
        encoded.add((tmp_path / "encoded.mp4").read_bytes())
    assert len(encoded) == 1
