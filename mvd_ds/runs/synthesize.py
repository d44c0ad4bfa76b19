"""The ``synthesize`` command: it writes the sample set and shows its progress."""

from __future__ import annotations

import os
from pathlib import Path

from mvd_ds.data.synthetic.worlds import WORLDS
from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.training.console import StepProgress, say


def synthesize(folder: Path, train: int, val: int, seed: int, size_px: int, frames: int, workers: int, world: str) -> None:
    """Write ``train`` and ``val`` clips of a world, of side ``size_px``, into ``folder``; clips that are there already stay.

    Raises:
        ConfigError: for settings out of range or a folder that holds something else.
    """
    progress = StepProgress("synthesize", 0, train + val, enabled=True)
    try:
        write_sample_set(
            folder,
            train,
            val,
            seed,
            size_px,
            frames,
            workers or os.cpu_count() or 1,
            on_progress=lambda done, _: progress.update(done, "clips"),
            world=world,
        )
    finally:
        progress.close()
    beside = "with captions train.jsonl, val.jsonl; " if WORLDS[world].has_captions else ""
    beside += "beside each clip its targets of dense probes, .npz"
    say(f"{train} training and {val} held-out clips in {folder}: train.txt, val.txt; {beside}")
