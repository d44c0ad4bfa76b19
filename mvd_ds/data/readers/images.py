"""Images as videos: of one frame, or of all frames of an animated WebP, PNG or GIF."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from mvd_ds.data.readers.frames import MAX_PIXELS, check_size, kept_size
from mvd_ds.data.readers.location import Location, check_exists, read_bytes
from mvd_ds.data.readers.video import DecodeError, Video, check_indices, decode_errors

_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that Pillow may open, whatever the extension says; others start programs or read other files."""
_ANIMATED = frozenset(("GIF", "PNG", "WEBP"))
"""Formats whose further images are frames; those of MPO and TIFF are other pictures."""
_MAX_8_BITS, _MAX_16_BITS = 255.0, 65535.0
_BITS_PER_SAMPLE = 258
"""Number of the TIFF tag."""


class ImageVideo(Video):
    """An image: a video of one frame, or an animation."""

    reader = "image"
    fps = 0.0

    def __init__(self, location: Location, max_pixels: int = MAX_PIXELS) -> None:
        """Read ``location``, upright; frames of an animation are decoded when they are asked for.

        Raises:
            DecodeError: if Pillow cannot, or the image has more than ``max_pixels``.
        """
        check_exists(location)
        with decode_errors():
            file = location if isinstance(location, str) else io.BytesIO(read_bytes(location))
            self._image = Image.open(file, formats=_FORMATS)
            try:
                check_size(*self._image.size, max_pixels)
                self._first, self._length = 0, 1
                if self._image.format in _ANIMATED and getattr(self._image, "is_animated", False):
                    # A PNG may begin with a picture that is not part of its animation.
                    self._first = int(bool(getattr(self._image, "default_image", False)))
                    self._length = int(getattr(self._image, "n_frames", 1)) - self._first
                if self._length > 1:
                    self.fps = self._average_rate()
                else:
                    self._frame = self._read(self._first)
            except BaseException:
                self._image.close()
                raise

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        self._image.close()

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, self._length)
        if self._length == 1:
            return np.repeat(self._frame[None], len(indices), axis=0)
        with decode_errors():
            found = {number: self._read(self._first + number) for number in sorted(set(indices.tolist()))}
            return np.stack([found[number] for number in indices.tolist()])

    def _read(self, number: int) -> np.ndarray:
        """Return picture ``number``, uint8 (H, W, 3), scaled down if it is too large to keep."""
        width, height = kept_size(*self._image.size)
        if (width, height) != self._image.size and self._image.format == "JPEG":
            self._image.draft(None, (width, height))  # decoded at a half or a quarter of its size
        if number or self._length > 1:
            self._image.seek(number)
        picture = _rgb(ImageOps.exif_transpose(self._image), _bits_of(self._image))
        if picture.width * picture.height > width * height:
            picture = picture.resize(kept_size(*picture.size), Image.Resampling.BOX)
        return np.asarray(picture)

    def _average_rate(self) -> float:
        durations = list(self._durations())
        return 1000 * len(durations) / sum(durations) if sum(durations) else 0.0

    def _durations(self) -> Iterator[float]:
        """Yield the milliseconds for which each frame is shown."""
        for number in range(self._length):
            self._image.seek(self._first + number)
            self._image.load()
            yield float(self._image.info.get("duration", 0))


def _bits_of(image: Image.Image) -> int:
    """Return the bits of a grey value in the file, by Pillow's mode and a TIFF's own tag."""
    tags = getattr(image, "tag_v2", {})
    return 32 if image.mode == "F" or 32 in tags.get(_BITS_PER_SAMPLE, ()) else 16


def _rgb(image: Image.Image, bits: int) -> Image.Image:
    """Return ``image`` as 8-bit RGB, its values scaled by their range; transparency is left out.

    Raises:
        DecodeError: for numbers whose range is not known.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode, bits)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str, bits: int) -> np.ndarray:
    """Return grey values (H, W) as uint8.

    The range of 16 bits is known: 0 to 65535. Numbers of 32 bits say none, so their largest value decides: floats are shares up
    to 1 and else go to 255, integers go to 255 if none is larger and else to 65535.
    """
    low, high = float(values.min()), float(values.max())
    limit = _MAX_8_BITS if mode == "F" else _MAX_16_BITS
    if not 0 <= low <= high <= limit:
        raise DecodeError(f"grey values from {low:g} to {high:g}, of which 0 to {limit:g} can be read")
    ranges = (1.0, _MAX_8_BITS) if mode == "F" else (_MAX_8_BITS, _MAX_16_BITS) if bits == 32 else (_MAX_16_BITS,)
    scale = next(most for most in ranges if high <= most)
    return np.rint(values.astype(np.float64) * (255 / scale)).astype(np.uint8)
