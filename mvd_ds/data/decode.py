"""From a path to frames: the one door to all readers."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from mvd_ds.data.decord_reader import DecordVideo
from mvd_ds.data.pyav_reader import PyavVideo
from mvd_ds.data.scan import Scan, scan_file
from mvd_ds.data.video import IMAGE_EXTENSIONS, DecodeError, Video, check_indices, one_line

__all__ = ["DecodeError", "Video", "open_again", "open_video", "read_frames"]


def open_video(path: str, reader: str = "auto") -> Video:
    """An opened video or image; ``.reader`` of the result says who reads it, for ``open_again``.

    Args:
        path: file.
        reader: auto (decord, but PyAV for files on which decord lies or hangs), decord or pyav.

    Raises:
        DecodeError: if it cannot be opened, or decord is asked to read a file on which it lies or hangs.
    """
    if os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS:
        return ImageVideo(path)
    if not os.path.exists(path):
        raise DecodeError("no such file")
    if reader == "pyav":
        return PyavVideo(path)
    scan = scan_file(path)
    if not scan.reason:
        video = DecordVideo(path)
        if len(video) == scan.frames:
            return video
        scan = Scan(scan.frames, f"{len(video)} frames by decord, {scan.frames} in the file")
    if reader == "decord":
        raise DecodeError(f"decord cannot be trusted with this file ({scan.reason}); use data.reader auto or pyav")
    return PyavVideo(path)


def open_again(path: str, reader: str) -> Video:
    """``path`` opened by the reader that read it before, without a scan.

    Raises:
        DecodeError: if that fails.
    """
    return READERS[reader](path)


def read_frames(path: str, indices: np.ndarray, reader: str = "auto") -> np.ndarray:
    """Frames uint8 (T, H, W, C) of a file.

    Raises:
        DecodeError: if one of them cannot be read.
    """
    with open_video(path, reader) as video:
        return video.get(np.asarray(indices, np.int64))


class ImageVideo(Video):
    """An image: a video of one frame."""

    reader = "image"

    def __init__(self, path: str) -> None:
        """Read ``path``, upright.

        Raises:
            DecodeError: if Pillow cannot.
        """
        try:
            with Image.open(path) as image:
                self._frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[None]
        except FileNotFoundError:
            raise DecodeError("no such file") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DecodeError(one_line(error)) from None

    def __len__(self) -> int:
        return 1

    def close(self) -> None:
        del self._frame

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, 1)
        return np.repeat(self._frame, len(indices), axis=0)


READERS: dict[str, Callable[[str], Video]] = {video.reader: video for video in (DecordVideo, PyavVideo, ImageVideo)}
