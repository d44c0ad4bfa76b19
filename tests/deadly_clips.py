"""Clips some of which end the process that cuts them, in ways that no try statement sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mvd_ds.data.dataset import ClipDataset, ClipKey


class DeadlyClips(ClipDataset):
    """Videos that end the worker: index -> signal; ``once`` is a file whose first deletion arms a single death."""

    def __init__(self, *arguments: Any, deadly: dict[int, int], once: Path | None = None) -> None:
        super().__init__(*arguments)
        self.deadly, self.once = deadly, once

    def _cut_clips(self, index: int, keys: Sequence[ClipKey], outputs: Sequence[dict[int, Tensor]]) -> list[bool]:
        if index in self.deadly and (self.once is None or _remove(self.once)):
            os.kill(os.getpid(), self.deadly[index])
            signal.pause()
        return super()._cut_clips(index, keys, outputs)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
