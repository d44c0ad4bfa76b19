"""The reader by decord, for files that ``scan`` found to be plain: of others decord gives wrong frames, or never returns."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.readers.location import Location, read_bytes, url_of
from mvd_ds.data.readers.video import Video, check_indices, decode_errors
from mvd_ds.files import one_line

RECOVERED_FRAMES = 1
"""Most frames that decord may replace by their neighbours because it cannot decode them."""


_ORIGIN = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""Beginning of decord's messages: the time and its own source lines."""


@cache
def decord_module() -> Any:
    """Return the package ``decord``, told to print nothing.

    Raises:
        ConfigError: if it is not installed: it has no wheels for arm64 and macOS.
    """
    try:
        import decord
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "decord":
            raise
        raise ConfigError(
            "data.reader decord: decord is not installed (it has wheels for x86-64 Linux and Windows alone); use data.reader auto"
        ) from None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


class DecordVideo(Video):
    """A video read by decord, with one thread."""

    reader = "decord"

    def __init__(self, location: Location, fps: float) -> None:
        """Open ``location``, of which a scan found out ``fps``: readers differ in what they call the frame rate.

        Raises:
            DecodeError: if decord cannot.
            ConfigError: if decord is not installed.
        """
        self.fps = fps
        decord = decord_module()
        with decode_errors("decord cannot open it: ", _reason):
            # decord takes no path that is not UTF-8.
            if isinstance(location, str) and location.isprintable():
                file: str | io.BytesIO = url_of(location)
            else:
                file = io.BytesIO(read_bytes(location))
            self._reader = decord.VideoReader(file, num_threads=1, fault_tol=RECOVERED_FRAMES)
            self._length = len(self._reader)

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        del self._reader

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, self._length)
        with decode_errors("decord: ", _reason):
            return self._reader.get_batch(indices.tolist()).asnumpy()


def _reason(error: BaseException) -> str:
    """Return the message of ``error`` in one line, without time, source line and stack trace."""
    return one_line(_ORIGIN.sub("", str(error).partition("Stack trace")[0]), 200) or type(error).__name__
