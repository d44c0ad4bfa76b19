"""The videos of one or several manifests, by number, each opened by the right reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvd_ds.data.decode import READERS, open_again, open_video
from mvd_ds.data.manifest import Manifest
from mvd_ds.data.video import Video

_READER_NAMES = ("", *READERS)


class VideoSource:
    """Videos 0 .. n-1: those of the first manifest, then those of the next."""

    def __init__(self, manifests: Sequence[Manifest], reader: str) -> None:
        """Keep ``manifests``; ``reader`` is ``data.reader``."""
        self._refs = [manifest.refs for manifest in manifests]
        self._ends = np.cumsum([len(refs) for refs in self._refs])
        self._reader = reader
        self._known = np.zeros(len(self), np.uint8)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": np.zeros(len(self), np.uint8)}

    def path(self, index: int) -> str:
        """Path of video ``index``."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._refs[number].path(index - int(self._ends[number]) + len(self._refs[number]))

    def open(self, index: int) -> Video:
        """Video ``index``; scanned when this process opens it for the first time.

        Raises:
            DecodeError: if it cannot be opened.
        """
        if self._known[index]:
            return open_again(self.path(index), _READER_NAMES[self._known[index]])
        video = open_video(self.path(index), self._reader)
        self._known[index] = _READER_NAMES.index(video.reader)
        return video
