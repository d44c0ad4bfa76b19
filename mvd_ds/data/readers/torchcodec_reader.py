"""The reader by torchcodec, where it is installed: exact seeking, one thread, on the CPU."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.readers.location import Location, read_bytes
from mvd_ds.data.readers.video import DecodeError, Video, check_indices, decode_errors, reason_of
from mvd_ds.files import one_line

_ORIGIN = re.compile(r"^\w+, \S+:\d+, ")


@cache
def decoder_class() -> Any:
    """Return torchcodec's ``VideoDecoder``.

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
        with decode_errors("torchcodec cannot open it: ", _reason):
            # A path is read as it is needed; "file:" and "subfile," addresses are not: torchcodec asks whether the path exists.
            # It takes no path that is not UTF-8. An absolute one names no protocol: ``concat:b.mp4`` is a file of that name.
            by_path = isinstance(location, str) and location.isprintable()
            file = os.path.abspath(location) if isinstance(location, str) and by_path else read_bytes(location)
            self._decoder = decoder(file, num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
            self._length = len(self._decoder)
        if not self._length:
            raise DecodeError("the video holds no frames")

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        del self._decoder

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, self._length)
        with decode_errors("torchcodec: ", _reason):
            frames: np.ndarray = self._decoder.get_frames_at(indices.tolist()).data.numpy()
            return frames


def _reason(error: BaseException) -> str:
    """Return the message of ``error`` without the C++ function, file and line that stand before it."""
    return one_line(_ORIGIN.sub("", str(error)).split("\nException raised")[0], 200)
