"""A video that is read from what was fetched of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np

from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.readers.partial_file import PartialFile
from mvd_ds.data.readers.pyav_reader import PyavVideo
from mvd_ds.data.readers.video import DecodeError, Video
from mvd_ds.data.remote.needed import NeededFrames

Fetch = Callable[[NeededFrames | None], tuple[ByteRange | PartialFile, int]]
"""Fetches a video, or what shows some of its frames; the descriptor is to be closed."""
_told: list[bool] = []


class FetchedVideo(Video):
    """A video whose fetched file is closed with it.

    Where more is read than the part that was fetched, by another FFmpeg than that of `prepare` or of frames that nobody said
    are needed, the video is fetched whole and read again: frames are never made of bytes that are not there.
    """

    reader = "fetched"

    def __init__(self, fetch: Fetch, needed: NeededFrames | None, reader: str, max_pixels: int) -> None:
        """Open what ``fetch`` returns, by ``reader`` of ``data.reader`` where it is whole.

        Raises:
            DecodeError: if it cannot be fetched or opened.
        """
        self._fetch, self._reader, self._max_pixels = fetch, reader, max_pixels
        self._part: PartialFile | None = None
        self._descriptor = -1
        try:
            self._open(needed)
        except DecodeError:
            if self._part is None or not self._part.missed:
                raise
            self._open_whole()

    def __len__(self) -> int:
        return len(self._video)

    def get(self, indices: np.ndarray) -> np.ndarray:
        try:
            images = self._video.get(indices)
        except DecodeError:
            if self._part is None or not self._part.missed:
                raise
        else:
            if self._part is None or not self._part.missed:
                return images
        self.close()
        self._open_whole()
        return self._video.get(indices)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._video.close()
            self._release()

    def _release(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def _open(self, needed: NeededFrames | None) -> None:
        fetched, self._descriptor = self._fetch(needed)
        try:
            self._part = fetched if isinstance(fetched, PartialFile) else None
            if isinstance(fetched, PartialFile):
                self._video: Video = PyavVideo(fetched, self._max_pixels)
                if fetched.missed:  # while FFmpeg probed, which takes it for the end
                    self._video.close()
                    raise DecodeError("more was read than was fetched")
            else:
                self._video = open_video(fetched, self._reader, self._max_pixels)
            self.fps = self._video.fps
        except BaseException:
            self._release()
            raise

    def _open_whole(self) -> None:
        if not _told:
            _told.append(True)
            logging.getLogger("mvd_ds").warning("a video is fetched whole: more of it is read than its shard's index says")
        self._open(None)
