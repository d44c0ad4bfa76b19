"""The videos of one or several manifests, by number, each opened by the right reader."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from mvd_ds.config import ConfigError, DataSettings
from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.location import ByteRange, Location, stamp_of
from mvd_ds.data.readers.video import Video
from mvd_ds.data.remote.fetching import Fetcher, is_elsewhere
from mvd_ds.data.remote.store import FetchError


class VideoSource:
    """Videos 0 .. n-1: those of the first manifest, then those of the next."""

    def __init__(self, manifests: Sequence[Manifest], data: DataSettings) -> None:
        """Keep ``manifests``; ``data`` says how their videos are read."""
        self._refs = [manifest.refs for manifest in manifests]
        self._ends = np.cumsum([len(refs) for refs in self._refs])
        self._reader, self._max_pixels = data.reader, data.max_pixels
        self._fetcher = Fetcher(data.remote, data.stall_seconds)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def path(self, index: int) -> str:
        """Return the path of video ``index``, for messages."""
        refs, number = self._find(index)
        return refs.path(number)

    def captions(self, index: int) -> tuple[str, ...]:
        """Return the captions of video ``index``."""
        refs, number = self._find(index)
        return refs.captions(number)

    def location(self, index: int) -> Location:
        """Return where the bytes of video ``index`` are."""
        refs, number = self._find(index)
        return refs.location(number)

    def stamp(self, index: int) -> str:
        """Return a mark of the content of video ``index``."""
        location = self.location(index)
        if not is_elsewhere(location):
            return stamp_of(location)
        inside = f"-{location.offset}-{location.size}" if isinstance(location, ByteRange) else ""
        try:
            state = self._fetcher.state(location.path if isinstance(location, ByteRange) else str(location))
        except (FetchError, ConfigError):
            return "missing"
        return f"{state.size}-{state.tag}{inside}"

    def expect(self, indices: Sequence[int]) -> None:
        """Begin to fetch those of the videos ``indices``, which are opened next, that are not on this machine."""
        self._fetcher.expect([self.location(index) for index in indices])

    def open(self, index: int) -> Video:
        """Open video ``index``.

        Raises:
            DecodeError: if it cannot be opened, or fetched in time.
            ConfigError: if its server gives nothing any more.
        """
        location = self.location(index)
        if not is_elsewhere(location):
            return open_video(location, self._reader, self._max_pixels)
        local, descriptor = self._fetcher.fetch(location)
        try:
            return _FetchedVideo(open_video(local, self._reader, self._max_pixels), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _find(self, index: int) -> tuple[ClipRefs, int]:
        """Return the manifest that holds video ``index``, and its number there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._refs[number], index - int(self._ends[number]) + len(self._refs[number])


class _FetchedVideo(Video):
    """A video that is read from a fetched file, which is closed with it."""

    reader = "fetched"

    def __init__(self, video: Video, descriptor: int) -> None:
        self._video, self._descriptor, self.fps = video, descriptor, video.fps

    def __len__(self) -> int:
        return len(self._video)

    def get(self, indices: np.ndarray) -> np.ndarray:
        return self._video.get(indices)

    def close(self) -> None:
        self._video.close()
        os.close(self._descriptor)
