"""Both readers on real files: the same bytes, the right frames, and no flagged file for decord."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvd_ds.data import pyav_reader
from mvd_ds.data.decode import open_again, open_video, read_frames
from mvd_ds.data.decord_reader import DecordVideo
from mvd_ds.data.pyav_reader import PyavVideo
from mvd_ds.data.scan import scan_file
from mvd_ds.data.video import DecodeError
from video_files import all_frames, write_trimmed, write_turned, write_video

SANE = {
    "h264.mp4": {"options": {"g": "20"}},
    "h264.mkv": {"options": {"bf": "3"}},
    "odd.mp4": {"width": 131, "height": 97, "pixel_format": "yuv444p"},
    "vfr.mp4": {"milliseconds": [33 * number + 11 * (number % 3) for number in range(40)]},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "open-gop=0:keyint=20:log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "wide.mp4": {"width": 340, "height": 256},
}
NOT_FOR_DECORD = {
    "open.mp4": ({"options": {"x264-params": "open-gop=1:keyint=15:bframes=3"}}, "open group of pictures"),
    "narrow.mp4": ({"width": 48, "height": 48}, "48 px wide"),
    "interlaced.mp4": ({"options": {"x264-params": "interlaced=1"}}, "interlaced"),
    "ten_bits.mp4": ({"pixel_format": "yuv420p10le"}, "pixel format yuv420p10le"),
    "av1.mp4": ({"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}}, "codec libdav1d"),
    "transport.ts": ({}, "container mpegts"),
    "packed.avi": ({"codec": "mpeg4", "options": {"bf": "2"}}, "container avi"),
    "h264.avi": ({"options": {"bf": "2"}}, "container avi"),
    "vp8.webm": ({"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}}, "codec vp8"),
}
FRAMES = 40


def _some_indices(length: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        np.arange(length),
        draw.permutation(length),
        np.array([length - 1]),
        np.sort(draw.integers(0, length, 4)),
        np.array([5, 5, 2, length - 1, 2]),
    ]


@pytest.mark.parametrize("name", SANE)
def test_decord_and_pyav_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = str(write_video(tmp_path / name, frames=FRAMES, **SANE[name]))
    expected = all_frames(Path(path))
    assert scan_file(path) == (FRAMES, "")
    assert open_video(path).reader == "decord"
    for reader in ("decord", "pyav"):
        for indices in _some_indices(FRAMES):
            assert np.array_equal(read_frames(path, indices, reader), expected[indices]), (reader, indices)


@pytest.mark.parametrize("name", NOT_FOR_DECORD)
def test_files_on_which_decord_lies_go_to_pyav(tmp_path: Path, name: str) -> None:
    options, reason = NOT_FOR_DECORD[name]
    path = str(write_video(tmp_path / name, frames=FRAMES, **options))
    expected = all_frames(Path(path))
    assert scan_file(path).reason == reason
    with open_video(path) as video:
        assert (video.reader, len(video)) == ("pyav", FRAMES)
        for indices in _some_indices(FRAMES):
            assert np.array_equal(video.get(indices), expected[indices]), indices
    with pytest.raises(DecodeError, match=rf"decord cannot be trusted with this file \({reason}\)"):
        open_video(path, "decord")


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.27])
def test_edit_list_shows_only_what_players_show(tmp_path: Path, plain: Path, seconds: float) -> None:
    path = str(write_trimmed(plain, tmp_path / "trimmed.mp4", seconds))
    first = int(np.ceil(seconds * 30 - 1e-6))
    assert scan_file(path).reason == "edit list"
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


def test_large_files_are_read_again_instead_of_kept(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = all_frames(plain)
    monkeypatch.setattr(pyav_reader, "KEEP_BYTES", 0)
    with PyavVideo(str(plain)) as video:
        for indices in _some_indices(60):
            assert np.array_equal(video.get(indices), expected[indices])


def test_only_what_is_needed_is_decoded(plain: Path) -> None:
    with PyavVideo(str(plain)) as video:
        fed = []
        read = video._read_packets

        def counted(first: int):  # type: ignore[no-untyped-def]
            for packet in read(first):
                fed.append(packet.pts)
                yield packet

        video._read_packets = counted  # type: ignore[method-assign]
        video.get(np.array([41]))
        assert len(fed) < 12, "decoding begins at the key frame at 40, not at 0"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "Invalid data"),
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
        tmp_path / "pieces.mp4", frames=FRAMES, options={"g": "10"}, container={"movflags": "frag_keyframe+empty_moov"}
    )
    assert scan_file(str(path)).reason == ""
    data = bytearray(path.read_bytes())
    time = data.rindex(b"tfdt") + 8
    data[time : time + 8] = (1 << 47).to_bytes(8, "big")
    path.write_bytes(data)
    assert "frames in the header, 40 in the file" in scan_file(str(path)).reason
    assert len(read_frames(str(path), np.arange(4))) == 4


@pytest.mark.parametrize("name", ["narrow.mp4", "transport.ts", "packed.avi"])
def test_damage_of_any_kind_is_a_decode_error(tmp_path: Path, name: str) -> None:
    options, _ = NOT_FOR_DECORD[name]
    whole = write_video(tmp_path / name, frames=8, **options).read_bytes()
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
    for reader in (PyavVideo, DecordVideo):
        with reader(str(plain)) as video, pytest.raises(DecodeError, match="frame 60 is outside a video of 60 frames"):
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


def test_a_known_reader_is_not_scanned_for_again(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvd_ds.data.decode.scan_file", None)
    with open_again(str(plain), "decord") as video:
        assert len(video) == 60
