"""The frames that a clip needs of a video which is not yet here."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mvd_ds.data.readers.video import Video


@dataclass(frozen=True)
class NeededFrames:
    """The frames that reading one clip asks for, found by reading it from a video that has none."""

    clip: Hashable
    """What tells this clip from others of the same video."""
    read: Callable[[Video], Any] = field(compare=False)
    """Reads the clip, by one call of ``Video.get``; what it draws by chance is the same every time."""

    def of(self, length: int, fps: float) -> np.ndarray:
        """Return the frames, int64, in any order, of a video of ``length`` frames, ``fps`` a second."""
        try:
            self.read(_Empty(length, fps))
        except _AskedFor as asked:
            return asked.indices
        return np.arange(0)


class _AskedFor(Exception):
    def __init__(self, indices: np.ndarray) -> None:
        super().__init__()
        self.indices = indices


class _Empty(Video):
    reader = "none"

    def __init__(self, length: int, fps: float) -> None:
        self._length, self.fps = length, fps

    def __len__(self) -> int:
        return self._length

    def get(self, indices: np.ndarray) -> np.ndarray:
        raise _AskedFor(indices)

    def close(self) -> None:
        pass
