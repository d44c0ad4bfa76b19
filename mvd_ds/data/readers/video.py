"""The interface of a video reader, which the readers in the other files implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar

import numpy as np

from mvd_ds.files import ConfigError, one_line

_VIDEOS = "mp4 m4v mov qt 3gp 3g2 mkv webm avi divx mpg mpeg mpe m2v vob ts m2ts mts wmv asf flv f4v ogv ogg gif mxf dv"
_UNREAD = "rm rmvb wtv y4m swf m3u8 m3u mpd insv braw r3d hevc h264 h265 ivf nut tif tiff heic heif avif jxl jp2 apng"
VIDEO_EXTENSIONS = frozenset(f".{name}" for name in _VIDEOS.split())
"""Extensions of video files, in lower case."""
IMAGE_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp"])
"""Extensions of images, in lower case; animated ones are read as clips."""
UNREAD_EXTENSIONS = frozenset(f".{name}" for name in _UNREAD.split())
"""Extensions of videos and images that are not read: a folder that holds some is told so."""


class DecodeError(Exception):
    """A file that cannot be turned into frames; the message says why in one line and does not name the file."""


class Video(ABC):
    """An opened video: ``len()`` frames in presentation order, and any of them by index."""

    reader: ClassVar[str]
    """Name of the kind of reader."""
    fps: float
    """Frames shown per second, on average; 0 where the file does not say, as for images."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames that are shown."""

    @abstractmethod
    def get(self, indices: np.ndarray) -> np.ndarray:
        """Return frames uint8 RGB (T, H, W, C) at ``indices`` int64 (T,), which may repeat and come in any order.

        Raises:
            DecodeError: if one of them cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def check_indices(indices: np.ndarray, length: int) -> None:
    """Refuse indices outside a video of ``length`` frames.

    Raises:
        DecodeError: naming the first one outside.
    """
    outside = indices[(indices < 0) | (indices >= length)]
    if len(outside):
        raise DecodeError(f"frame {outside[0]} is outside a video of {length} frames")


def reason_of(error: BaseException) -> str:
    """Return the message of ``error`` in one short line, without the path that errors of the operating system add."""
    text = one_line(getattr(error, "strerror", None) or error, 200)
    expected = isinstance(error, OSError | ValueError | RuntimeError | SyntaxError)
    return text if text and expected else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextmanager
def decode_errors(prefix: str = "", reason: Callable[[BaseException], str] = reason_of) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a ``DecodeError``: the file is at fault, not the run.

    Args:
        prefix: what stands before the reason, such as the reader's name.
        reason: returns the reason of an error in one line.

    Raises:
        DecodeError: for every error but a ``ConfigError``.
    """
    try:
        yield
    except (DecodeError, ConfigError):
        raise
    except Exception as error:
        raise DecodeError(prefix + reason(error)) from None
