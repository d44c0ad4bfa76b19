"""Clips some of which end the process that cuts them, in ways that no try statement sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.data.dataset import ClipDataset, ClipKey
from mvd_ds.data.readers.video import Video

HANG = 0
"""In place of a signal: the worker waits for ever."""
DEADLY_FRAMES = 5
"""Length of the videos on which ``hang_on_deadly_length`` hangs."""


class DeadlyClips(ClipDataset):
    """Videos that end the worker: index -> signal; ``once`` is a file whose first deletion arms a single death."""

    def __init__(self, *arguments: Any, deadly: dict[int, int], once: Path | None = None) -> None:
        super().__init__(*arguments)
        self.deadly, self.once = deadly, once

    def _read_clips(self, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[int, Tensor]]) -> list[bool]:
        if index in self.deadly and (self.once is None or _remove(self.once)):
            os.kill(os.getpid(), self.deadly[index])
            signal.pause()
        return super()._read_clips(index, keys, outputs)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def hang_on_deadly_length(video: Video) -> Tensor:
    """Return a black clip uint8 (3, 1, 32, 32); wait for ever on a video of ``DEADLY_FRAMES``."""
    if len(video) == DEADLY_FRAMES:
        signal.pause()
    return torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
