"""The interface of a video reader, which the readers in the other files implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar

import numpy as np

from mvd_ds.files import one_line

VIDEO_EXTENSIONS = frozenset(
    (
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".wmv",
        ".flv",
        ".3gp",
        ".ogv",
        ".gif",
    )
)
IMAGE_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp"])


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
    return one_line(getattr(error, "strerror", None) or error, 200) or type(error).__name__
