"""What readers do beside giving the right frames, of which ``test_conformance`` speaks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from PIL import Image

from conformance_files import ENCODED, some_indices
from mvd_ds.config import ConfigError
from mvd_ds.data.readers import pyav_reader
from mvd_ds.data.readers.decode import open_video, read_frames
from mvd_ds.data.readers.decord_reader import decord_module
from mvd_ds.data.readers.pyav_reader import PyavVideo
from mvd_ds.data.readers.scan import not_for_decord, scan_file
from mvd_ds.data.readers.video import DecodeError
from video_files import all_frames, write_trimmed, write_turned, write_video


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.27])
def test_edit_list_shows_only_what_players_show(tmp_path: Path, plain: Path, seconds: float) -> None:
    path = str(write_trimmed(plain, tmp_path / "trimmed.mp4", seconds))
    first = int(np.ceil(seconds * 30 - 1e-6))
    with open_video(path) as video:
        assert (video.reader, len(video)) == ("pyav", 60 - first)
        assert np.array_equal(video.get(np.arange(len(video))), all_frames(plain)[first:])


def test_rotation_is_applied_by_both_readers(tmp_path: Path, plain: Path) -> None:
    path = str(write_turned(plain, tmp_path / "turned.mp4"))
    upright = np.rot90(all_frames(plain)[:3], -1, (1, 2))
    for reader in ("pyav", "decord"):
        frames = read_frames(path, np.arange(3), reader)
        assert frames.shape == (3, 128, 96, 3)
        assert np.array_equal(frames, upright) or np.array_equal(frames, upright[:, ::-1, ::-1])
    assert np.array_equal(read_frames(path, np.arange(3), "pyav"), read_frames(path, np.arange(3), "decord"))


def test_large_files_are_read_again_instead_of_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "large.mkv", frames=40, options={"g": "15"})
    expected = all_frames(path)
    monkeypatch.setattr(pyav_reader, "KEEP_BYTES", 0)
    with PyavVideo(str(path)) as video:
        for indices in some_indices(40):
            assert np.array_equal(video.get(indices), expected[indices])


def test_only_what_is_needed_is_decoded(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    decode = PyavVideo._decode

    def counted(self: PyavVideo, packets: list[Packet], needed: frozenset[int] | None = None) -> Iterator[VideoFrame]:
        def count() -> Iterator[Packet]:
            for packet in packets:
                fed.append(packet.pts)
                yield packet

        return decode(self, count(), needed)

    monkeypatch.setattr(PyavVideo, "_decode", counted)
    with PyavVideo(str(plain)) as video:
        video.get(np.array([41]))
    assert 2 <= len(fed) < 8, "decoding begins at the key frame at 40, not at 0, and ends with the frame's packet"


def test_only_the_groups_that_are_needed_are_read(tmp_path: Path) -> None:
    """A table of samples that is wrong elsewhere goes unseen; one that is wrong here sends the reader through the whole file."""
    path = write_video(tmp_path / "short.mp4", frames=40, options={"g": "8"})
    expected = all_frames(path)
    with PyavVideo(str(path)) as video:
        table = video._table
        assert table is not None and table.keys.tolist() == [0, 8, 16, 24, 32]
        table.positions[30] += 1
        assert np.array_equal(video.get(np.array([3, 9, 15])), expected[[3, 9, 15]]) and video._table is table
        assert np.array_equal(video.get(np.array([3, 27])), expected[[3, 27]]) and video._table is None
        assert np.array_equal(video.get(np.arange(40)), expected)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "an empty file"),
        ("text.mp4", b"hello " * 100, "Invalid data"),
        ("picture.jpg", b"hello", "cannot identify"),
    ],
)
def test_files_that_are_no_video_say_so(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    for reader in ("auto", "pyav", "decord"):
        with pytest.raises(DecodeError, match=reason):
            open_video(str(tmp_path / name), reader)


def test_missing_files_say_so(tmp_path: Path) -> None:
    for name in ("gone.mp4", "gone.jpg"):
        with pytest.raises(DecodeError, match="no such file"):
            open_video(str(tmp_path / name))


def test_damaged_files_are_errors_not_grey_frames(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", frames=60, width=320, height=240).read_bytes()
    (tmp_path / "no_index.mp4").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + len(whole) // 4] = bytes(len(whole) // 4)
    (tmp_path / "zeros.mp4").write_bytes(damaged)
    for name in ("no_index.mp4", "zeros.mp4"):
        for reader in ("auto", "pyav"):
            with pytest.raises(DecodeError) as caught:
                read_frames(str(tmp_path / name), np.arange(0, 60, 4), reader)
            assert "\n" not in str(caught.value)
            assert "/" not in str(caught.value), "no path and no source line of a library"


def test_a_length_that_only_the_header_claims_is_not_for_decord(tmp_path: Path) -> None:
    """decord would reserve memory for 10^11 frames and end the process."""
    path = write_video(
        tmp_path / "pieces.mp4", frames=40, options={"g": "10"}, container={"movflags": "frag_keyframe+empty_moov"}
    )
    assert not_for_decord(scan_file(str(path))) == ""
    data = bytearray(path.read_bytes())
    time = data.rindex(b"tfdt") + 8
    data[time : time + 8] = (1 << 47).to_bytes(8, "big")
    path.write_bytes(data)
    assert "frames in the header, 40 in the file" in not_for_decord(scan_file(str(path)))
    assert len(read_frames(str(path), np.arange(4))) == 4


@pytest.mark.parametrize("name", ["narrow.mp4", "transport.ts", "packed.avi"])
def test_damage_of_any_kind_is_a_decode_error(tmp_path: Path, name: str) -> None:
    whole = write_video(tmp_path / name, **{**ENCODED[name], "frames": 8}).read_bytes()
    draw = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        data = bytearray(whole)
        for place in draw.integers(0, len(data), 2 ** int(draw.integers(0, 8))):
            data[place] = int(draw.integers(256))
        (tmp_path / name).write_bytes(data)
        try:
            outcomes.add(read_frames(str(tmp_path / name), np.arange(2)).shape[3])
        except DecodeError:
            outcomes.add(0)
    assert outcomes == {0, 3}


def test_frames_outside_the_video_are_refused(plain: Path) -> None:
    for reader in ("pyav", "decord"):
        with (
            open_video(str(plain), reader) as video,
            pytest.raises(DecodeError, match="frame 60 is outside a video of 60 frames"),
        ):
            video.get(np.array([3, 60]))


def test_an_image_is_a_video_of_one_upright_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_video(str(tmp_path / "a.png")) as video:
        assert (video.reader, len(video)) == ("image", 1)
        assert np.array_equal(video.get(np.zeros(3, np.int64)), np.stack([pixels] * 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(read_frames(str(tmp_path / "turned.png"), np.zeros(1, np.int64))[0], np.rot90(pixels, -1))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert read_frames(str(tmp_path / "grey.png"), np.zeros(1, np.int64)).shape == (1, 20, 30, 3)


def test_without_decord_all_else_works(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    decord_module.cache_clear()
    assert read_frames(str(plain), np.arange(2)).shape == (2, 96, 128, 3)
    with pytest.raises(ConfigError, match=r"decord is not installed .*; use data.reader auto"):
        read_frames(str(plain), np.arange(2), "decord")
