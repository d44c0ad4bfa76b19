"""Decoded frames as upright RGB arrays: their orientation, their size, and the limits on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from mvd_ds.data.readers.video import DecodeError

MAX_PIXELS = 50_000_000
"""Default of ``data.max_pixels``: 8K video and photographs of 50 megapixels can be read."""
KEPT_PIXELS = 4096 * 2304
"""Pixels of a frame that are kept; larger frames are scaled down one by one while they are read."""


class Orientation(NamedTuple):
    """One of the eight ways to turn and mirror a stored picture: transposed first, mirrored then."""

    transposed: bool = False
    mirrored_x: bool = False
    """Left and right are exchanged."""
    mirrored_y: bool = False
    """Top and bottom are exchanged."""

    @property
    def mirrors(self) -> bool:
        """Return whether it is more than a rotation."""
        return bool(self.transposed ^ self.mirrored_x ^ self.mirrored_y)

    @property
    def degrees(self) -> int:
        """Counter-clockwise rotation, 0, 90, 180 or 270; the mirrored ones count as the rotation before the left-right mirror."""
        mirrored_x = self.mirrored_x ^ self.mirrors
        return (270 if mirrored_x else 90) if self.transposed else (180 if mirrored_x else 0)

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Return ``images`` (..., H, W, C) upright, (..., W, H, C) if it transposes; contiguous."""
        if self.transposed:
            images = images.swapaxes(-3, -2)
        images = images[..., ::-1, :] if self.mirrored_x else images
        images = images[..., ::-1, :, :] if self.mirrored_y else images
        return np.ascontiguousarray(images)


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return how ``frame`` is to be shown, by its display matrix; angles between quarter turns count as the nearest one."""
    data: Any  # PyAV's stubs call it a string
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            # Pixel (x, y) is shown at (a x + c y, b x + d y).
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return Orientation(False, a < 0, d < 0)
            return Orientation(True, c < 0, b < 0)
    return Orientation()


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse frames of more than ``max_pixels``.

    Raises:
        DecodeError: naming the setting.
    """
    if width * height > max_pixels:
        raise DecodeError(f"its frames of {width} x {height} pixels are larger than data.max_pixels {max_pixels}")


def kept_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height at which a frame is kept: its own, or of at most ``KEPT_PIXELS``."""
    if width * height <= KEPT_PIXELS:
        return width, height
    scale = (KEPT_PIXELS / (width * height)) ** 0.5
    return max(int(width * scale), 1), max(int(height * scale), 1)


class FrameBuffer:
    """RGB images that are converted as frames are decoded, so that only one decoded frame is held at a time."""

    def __init__(self, count: int) -> None:
        """Make room for ``count`` images; their size is that of the first frame."""
        self._count = count
        self._filled: set[int] = set()
        self._stored = (0, 0)
        self._orientation = Orientation()
        self._images = np.empty(0, np.uint8)
        self._reformatter = VideoReformatter()

    def __len__(self) -> int:
        """Return the number of images that are filled."""
        return len(self._filled)

    def __contains__(self, row: int) -> bool:
        return row in self._filled

    def put(self, row: int, frame: VideoFrame) -> None:
        """Write ``frame`` to image number ``row``.

        Raises:
            DecodeError: if its size or orientation is not that of the first frame.
        """
        size, orientation = (frame.width, frame.height), orientation_of(frame)
        if not self._filled:
            self._stored, self._orientation = size, orientation
            width, height = kept_size(*size)
            self._images = np.empty((self._count, height, width, 3), np.uint8)
        elif size != self._stored:
            raise DecodeError("the frame size changes within the video")
        elif orientation != self._orientation:
            raise DecodeError("the orientation changes within the video")
        self._filled.add(row)
        height, width = self._images.shape[1:3]
        # One thread: starting one per core costs ten times the conversion of a small frame.
        if (width, height) == size:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        else:
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA, threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        self._images[row] = rows[:, : width * 3].reshape(height, width, 3)

    def images(self) -> np.ndarray:
        """Return the images, uint8 (T, H, W, C), upright."""
        return self._images if self._orientation == Orientation() else self._orientation.apply(self._images)
