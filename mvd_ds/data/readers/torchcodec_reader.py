"""Frames by torchcodec, where it is installed: exact seeking, one thread, on the CPU."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.readers.location import Location, read_bytes
from mvd_ds.data.readers.video import DecodeError, Video, check_indices, reason_of
from mvd_ds.files import one_line

_ERRORS = (RuntimeError, ValueError, IndexError, OSError, TypeError, KeyError)
"""What torchcodec raises on damaged files: its C++ checks are RuntimeErrors, missing metadata ValueErrors and TypeErrors."""

_ORIGIN = re.compile(r"^\w+, \S+:\d+, ")


@cache
def decoder_class() -> Any:
    """torchcodec's ``VideoDecoder``.

    Raises:
        ConfigError: if torchcodec is not installed, or finds neither FFmpeg nor the torch it was built for.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchcodec":
            raise
        raise ConfigError(
            "data.reader torchcodec: torchcodec is not installed (pip install torchcodec); or use data.reader auto"
        ) from None
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            "data.reader torchcodec: torchcodec is installed but does not load: it needs FFmpeg's shared libraries "
            f"(apt-get install ffmpeg) and the torch it was built for; or use data.reader auto. It says: {reason_of(error)}"
        ) from None
    return VideoDecoder


class TorchcodecVideo(Video):
    """A video read by torchcodec. Its own scan at opening lists all frames, so that numbers are exact on every file."""

    reader = "torchcodec"

    def __init__(self, location: Location, fps: float) -> None:
        """Open ``location``, of which a scan found out ``fps``: readers differ in what they call the frame rate.

        Raises:
            ConfigError: if torchcodec cannot be used on this machine.
            DecodeError: if it cannot open the file.
        """
        self.fps = fps
        decoder = decoder_class()
        try:
            # A path is read as it is needed; "file:" and "subfile," addresses are not: torchcodec asks whether the path exists.
            file = location if isinstance(location, str) else read_bytes(location)
            self._decoder = decoder(file, num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
            self._length = len(self._decoder)
        except _ERRORS as error:
            raise DecodeError(f"torchcodec cannot open it: {_reason(error)}") from None
        if not self._length:
            raise DecodeError("the video holds no frames")

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        del self._decoder

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, self._length)
        try:
            return self._decoder.get_frames_at(indices.tolist()).data.numpy()
        except _ERRORS as error:
            raise DecodeError(f"torchcodec: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Its message without the C++ function, file and line that stand before it."""
    return one_line(_ORIGIN.sub("", str(error)).split("\nException raised")[0], 200)
