"""Images of every mode and format that Pillow reads, animations, and damaged ones."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mvd_ds.data.prepare.inspection import inspect_file
from mvd_ds.data.readers import frames
from mvd_ds.data.readers.decode import open_video, read_frames
from mvd_ds.data.readers.video import DecodeError

GREY = np.linspace(0, 255, 20 * 30).reshape(20, 30).round().astype(np.uint8)


def read(path: Path) -> np.ndarray:
    return read_frames(str(path), np.zeros(1, np.int64))[0]


@pytest.mark.parametrize(
    ("mode", "image"),
    [
        ("L", Image.fromarray(GREY)),
        ("LA", Image.fromarray(GREY).convert("LA")),
        ("RGBA", Image.fromarray(GREY).convert("RGBA")),
        ("P", Image.fromarray(GREY).convert("P")),
        ("I;16", Image.fromarray(GREY.astype(np.uint16) * 257)),
        ("I", Image.fromarray(GREY.astype(np.int32) * 257)),
        ("I of 8 bits", Image.fromarray(GREY.astype(np.int32))),
        ("F", Image.fromarray(GREY.astype(np.float32))),
        ("F of shares", Image.fromarray(GREY.astype(np.float32) / 255)),
        ("YCbCr", Image.fromarray(GREY).convert("YCbCr")),
        ("CMYK", Image.fromarray(GREY).convert("RGB").convert("CMYK")),
    ],
)
def test_every_mode_is_converted_by_its_range(tmp_path: Path, mode: str, image: Image.Image) -> None:
    kind = "TIFF" if mode.startswith(("F", "CMYK", "YCbCr")) or mode in ("I", "I of 8 bits") else "PNG"
    image.save(tmp_path / "a.png", kind)
    assert np.array_equal(read(tmp_path / "a.png"), np.repeat(GREY[..., None], 3, 2))


def test_one_bit_and_transparency(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert np.array_equal(read(tmp_path / "bits.png")[..., 0], np.where(GREY > 100, 255, 0))
    Image.fromarray(GREY).convert("P").save(tmp_path / "clear.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read(tmp_path / "clear.png")[..., 0], GREY)


def test_numbers_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32) * 1000).save(tmp_path / "a.png", "TIFF")
    with pytest.raises(DecodeError, match="grey values from 0 to 255000"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(("suffix", "options"), [("webp", {"lossless": True}), ("png", {}), ("png", {"default_image": True})])
def test_an_animation_is_a_clip(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    pictures = [np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8) for number in range(5)]
    images = [Image.fromarray(pixels) for pixels in pictures]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=40, **options)
    shown = pictures[1:] if "default_image" in options else pictures
    with open_video(str(path)) as video:
        assert len(video) == len(shown) and video.fps == 25.0
        indices = np.array([3, 0, 3, 1])
        assert np.array_equal(video.get(indices), np.stack(shown)[indices])
    facts = inspect_file(str(path), verify=True)
    assert (facts["frames"], facts["fps"], facts["width"], facts["height"]) == (len(shown), 25.0, 30, 20)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_whatever_pillow_raises_is_a_broken_file(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "maker", {0x9003: "2020:01:01 00:00:00"}
    Image.fromarray(GREY).save(tmp_path / f"whole.{suffix}", exif=exif)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(whole)
        for place in draw.integers(0, len(data), 1 + int(draw.integers(4))):
            data[place] = int(draw.integers(256))
        (tmp_path / f"a.{suffix}").write_bytes(data)
        try:
            assert read(tmp_path / f"a.{suffix}").shape[2] == 3
        except DecodeError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("error", [TypeError("a"), MemoryError(), RecursionError("deep"), KeyError("x")])
def test_any_exception_is_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Path, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DecodeError, match=r"."):
        read(tmp_path / "a.png")
    for reader in ("pyav", "decord"):
        with open_video(str(plain), reader) as video:
            monkeypatch.setattr(type(video), "_images", fail, raising=False)
            monkeypatch.setattr(video, "_reader", None, raising=False)
            with pytest.raises(DecodeError, match=r"."):
                video.get(np.zeros(1, np.int64))


def test_large_images_are_refused_or_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    with pytest.raises(DecodeError, match=r"30 x 20 pixels are larger than data.max_pixels 599"):
        open_video(str(tmp_path / "a.jpg"), max_pixels=599)
    monkeypatch.setattr(frames, "KEPT_PIXELS", 15 * 10)
    assert read(tmp_path / "a.jpg").shape == (10, 15, 3)


def test_a_small_file_of_huge_frames_costs_no_memory(tmp_path: Path) -> None:
    """400 bytes that unfold to 8000 x 8000 pixels."""
    Image.new("P", (8000, 8000)).save(tmp_path / "a.gif")
    Image.new("1", (8000, 8000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 20_000 and zlib.crc32((tmp_path / "a.gif").read_bytes())
    for name in ("a.gif", "a.png"):
        with pytest.raises(DecodeError, match=r"8000 x 8000 pixels are larger than data.max_pixels 50000000"):
            open_video(str(tmp_path / name))
