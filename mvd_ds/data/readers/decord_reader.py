"""Frames by decord. Only for files that ``scan`` found to be plain: on others decord lies, or never returns."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.readers.location import Location, read_bytes, url_of
from mvd_ds.data.readers.video import DecodeError, Video, check_indices
from mvd_ds.files import one_line

RECOVERED_FRAMES = 1
"""decord replaces frames that it cannot decode by their neighbours; more than this many of them is an error."""


_ORIGIN = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""decord's messages name the time and its own source lines."""


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
        try:
            file = url_of(location) if isinstance(location, str) else io.BytesIO(read_bytes(location))
            self._reader = decord.VideoReader(file, num_threads=1, fault_tol=RECOVERED_FRAMES)
            self._length = len(self._reader)
        except (decord.DECORDError, RuntimeError, AssertionError, OSError) as error:
            raise DecodeError(f"decord cannot open it: {_reason(error)}") from None

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        del self._reader

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, self._length)
        from decord import DECORDError
        from decord._ffi.base import DECORDLimitReachedError

        try:
            return self._reader.get_batch(indices.tolist()).asnumpy()
        except (DECORDError, DECORDLimitReachedError, RuntimeError) as error:
            raise DecodeError(f"decord: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return one_line(_ORIGIN.sub("", str(error).partition("Stack trace")[0]), 200)
