"""The videos of one or several manifests, by number, each opened by the right reader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvd_ds.config import DataSettings
from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.location import Location, stamp_of
from mvd_ds.data.readers.video import Video


class VideoSource:
    """Videos 0 .. n-1: those of the first manifest, then those of the next."""

    def __init__(self, manifests: Sequence[Manifest], data: DataSettings) -> None:
        """Keep ``manifests``; ``data`` says how their videos are read."""
        self._refs = [manifest.refs for manifest in manifests]
        self._ends = np.cumsum([len(refs) for refs in self._refs])
        self._reader, self._max_pixels = data.reader, data.max_pixels

    def __len__(self) -> int:
        return int(self._ends[-1])

    def path(self, index: int) -> str:
        """Return the path of video ``index``, for messages."""
        refs, number = self._find(index)
        return refs.path(number)

    def location(self, index: int) -> Location:
        """Return where the bytes of video ``index`` are."""
        refs, number = self._find(index)
        return refs.location(number)

    def stamp(self, index: int) -> str:
        """Return a mark of the content of video ``index``."""
        return stamp_of(self.location(index))

    def open(self, index: int) -> Video:
        """Open video ``index``.

        Raises:
            DecodeError: if it cannot be opened.
        """
        return open_video(self.location(index), self._reader, self._max_pixels)

    def _find(self, index: int) -> tuple[ClipRefs, int]:
        """Return the manifest that holds video ``index``, and its number there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._refs[number], index - int(self._ends[number]) + len(self._refs[number])
