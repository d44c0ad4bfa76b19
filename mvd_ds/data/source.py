"""The videos of one or several manifests, by number, each opened by the right reader."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mvd_ds.config import ConfigError, DataSettings
from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.decode import READERS, open_video
from mvd_ds.data.readers.location import ByteRange, Location, extension_of, stamp_of
from mvd_ds.data.readers.pyav_reader import PyavVideo
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, Video
from mvd_ds.data.remote.fetched_video import FetchedVideo
from mvd_ds.data.remote.fetching import Fetcher, is_elsewhere
from mvd_ds.data.remote.needed import NeededFrames
from mvd_ds.data.remote.store import FetchError
from mvd_ds.files import counted, one_line


class VideoSource:
    """Videos 0 .. n-1: those of the first manifest, then those of the next."""

    def __init__(self, manifests: Sequence[Manifest], data: DataSettings) -> None:
        """Keep ``manifests``; ``data`` says how their videos are read."""
        self._refs = [manifest.refs for manifest in manifests]
        self._ends = np.cumsum([len(refs) for refs in self._refs])
        self._reader, self._max_pixels = data.reader, data.max_pixels
        self._fetcher = Fetcher(data.remote, data.stall_seconds, sum(refs.shard_bytes for refs in self._refs))

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

    def expect(self, indices: Sequence[int], needed: Sequence[NeededFrames | None]) -> None:
        """Begin to fetch those of the videos ``indices``, which are opened next, that are not on this machine.

        Args:
            indices: the videos.
            needed: of each, the frames that are read of it; None: any.
        """
        videos = zip(map(self.location, indices), needed, strict=True)
        self._fetcher.expect([(location, self._of_groups(location, frames)) for location, frames in videos])

    def open(self, index: int, needed: NeededFrames | None = None) -> Video:
        """Open video ``index``.

        Args:
            index: the video.
            needed: the frames that are read of it, as ``expect`` was told; None: any.

        Raises:
            DecodeError: if it cannot be opened, or fetched in time.
            ConfigError: if its server gives nothing any more.
        """
        location = self.location(index)
        if not is_elsewhere(location):
            return open_video(location, self._reader, self._max_pixels)
        return FetchedVideo(
            partial(self._fetcher.fetch, location), self._of_groups(location, needed), self._reader, self._max_pixels
        )

    def describe_fetching(self) -> list[str]:
        """Return a line for each manifest of videos that are not on this machine: how much of them is fetched."""
        firsts = [int(end) - len(refs) for end, refs in zip(self._ends, self._refs, strict=True)]
        return [self._how(self.location(first)) for first in firsts if is_elsewhere(self.location(first))]

    def _how(self, location: Location) -> str:
        """Return how much is fetched of the videos beside one."""
        whole = "videos are fetched whole"
        if not isinstance(location, ByteRange):
            shown = one_line(without_secrets(str(location)), 200)
            return f"{shown}: {whole}; of those in shards of `prepare --shards`, what a clip needs"
        shard = one_line(without_secrets(location.path), 200)
        if READERS[self._reader] is not PyavVideo:
            return f"{shard}: {whole}, as data.reader {self._reader} needs them"
        known = self._fetcher.known_groups(location)
        if known is None:
            return f"{shard}: has no index of groups of pictures beside it, as `prepare --shards` writes: {whole}"
        return f"{shard}: of {counted(known, 'video')} the groups of pictures that a clip needs are fetched, of others all"

    def _of_groups(self, location: Location, needed: NeededFrames | None) -> NeededFrames | None:
        """Return ``needed`` where groups of pictures can be read: by PyAV, of videos."""
        is_video = extension_of(location) not in IMAGE_EXTENSIONS
        return needed if READERS[self._reader] is PyavVideo and is_video else None

    def _find(self, index: int) -> tuple[ClipRefs, int]:
        """Return the manifest that holds video ``index``, and its number there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._refs[number], index - int(self._ends[number]) + len(self._refs[number])
