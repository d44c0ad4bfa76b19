"""Orientation and size of decoded frames: all eight display matrices in every reader, limits, and what is scaled down."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.inspection import inspect_file
from mvd_ds.data.readers import frames
from mvd_ds.data.readers.decode import open_video, read_frames
from mvd_ds.data.readers.frames import Orientation
from mvd_ds.data.readers.video import DecodeError
from video_files import all_frames, write_video

#: (a, b, c, d) of a display matrix, and the filters by which FFmpeg's autorotate shows it.
MATRICES = {
    (1, 0, 0, 1): [],
    (-1, 0, 0, 1): [("hflip", "")],
    (1, 0, 0, -1): [("vflip", "")],
    (-1, 0, 0, -1): [("hflip", ""), ("vflip", "")],
    (0, 1, -1, 0): [("transpose", "clock")],
    (0, -1, 1, 0): [("transpose", "cclock")],
    (0, 1, 1, 0): [("transpose", "cclock_flip")],
    (0, -1, -1, 0): [("transpose", "clock_flip")],
}


def with_matrix(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    a, b, c, d = (value * (1 << 16) for value in matrix)
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def filtered(path: Path, filters: list[tuple[str, str]]) -> np.ndarray:
    """The stored frames, uint8 (T, H, W, 3), sent as RGB through FFmpeg's filters."""
    images = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            graph = Graph()
            rgb = frame.reformat(format="rgb24")
            nodes = [graph.add_buffer(width=rgb.width, height=rgb.height, format=rgb.format, time_base=frame.time_base)]
            nodes += [graph.add(name, value) if value else graph.add(name) for name, value in filters]
            nodes.append(graph.add("buffersink"))
            for one, other in itertools.pairwise(nodes):
                one.link_to(other)
            graph.configure()
            graph.push(rgb)
            images.append(graph.pull().to_ndarray(format="rgb24"))
    return np.stack(images)


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_orientations_are_shown_as_ffmpeg_does(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = with_matrix(write_video(tmp_path / "plain.mp4", frames=6, width=160), tmp_path / "turned.mp4", matrix)
    expected = filtered(path, MATRICES[matrix])
    mirrors = matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0
    for reader in ("pyav", "decord"):
        if mirrors and reader == "decord":
            with pytest.raises(DecodeError, match=r"cannot be trusted with this file \(mirrored\)"):
                open_video(str(path), reader)
        else:
            assert np.array_equal(read_frames(str(path), np.arange(6), reader), expected), reader
    facts = inspect_file(str(path), verify=True)
    assert (facts["height"], facts["width"]) == expected.shape[1:3]
    assert mirrors == facts["decord"].startswith("mirrored")
    for codec, quality in (("h264", 4), ("mjpeg", 2)):
        encode(str(path), tmp_path / "encoded.mp4", Encoding(codec, quality))
        error = read_frames(str(tmp_path / "encoded.mp4"), np.arange(6)).astype(float) - expected
        assert 10 * np.log10(255**2 / (error**2).mean()) > 30


def test_orientation_applies_to_the_last_three_axes() -> None:
    image = np.arange(12).reshape(1, 2, 2, 3)
    assert np.array_equal(Orientation(True, True, False).apply(image), np.rot90(image, -1, (1, 2)))
    assert [Orientation(*bits).degrees for bits in ((0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0))] == [0, 90, 180, 270]


def test_frames_over_the_limit_are_refused_before_they_are_decoded(tmp_path: Path, plain: Path) -> None:
    for reader in ("auto", "decord", "torchcodec"):
        with pytest.raises(DecodeError, match=r"128 x 96 pixels are larger than data.max_pixels 12287|torchcodec is installed"):
            open_video(str(plain), reader, max_pixels=128 * 96 - 1)
    open_video(str(plain), max_pixels=128 * 96).close()


def test_large_frames_are_scaled_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_video(tmp_path / "large.mp4", frames=4))
    monkeypatch.setattr(frames, "KEPT_PIXELS", 64 * 48)
    images = read_frames(path, np.arange(4))
    assert images.shape == (4, 48, 64, 3)
    halved = all_frames(Path(path)).reshape(4, 48, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(images - halved).mean() < 4


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_a_size_that_changes_is_found_by_verify_and_by_encode(tmp_path: Path, codec: str) -> None:
    parts = [
        write_video(tmp_path / f"{width}.ts", frames=24, width=width, options={"g": "8"}).read_bytes() for width in (128, 160)
    ]
    path = tmp_path / "changing.ts"
    path.write_bytes(b"".join(parts))
    with pytest.raises(DecodeError, match="size changes"):
        inspect_file(str(path), verify=True)
    with pytest.raises(DecodeError, match="size or orientation changes"):
        encode(str(path), tmp_path / "encoded.mp4", Encoding(codec, 10))
    assert not list(tmp_path.glob("*encoded*"))
