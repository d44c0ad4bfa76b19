"""Clips that the loader of this host can give from H.264 files, and how many devices like this one they would feed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from mvd_ds.tools.prove.record import Record

FILES = 4


def run(record: Record, device: torch.device) -> None:
    """Measure clips/s from files that it writes, 340 x 256, as they are; readers that are not installed are named."""
    try:
        from mvd_ds.tools.bench.data import DataBenchOptions, measure
        from mvd_ds.tools.bench.sample_videos import write_videos
    except ImportError as error:
        record.skip("clips of the loader", f"{error.name or error} is not installed")
        return
    with tempfile.TemporaryDirectory(prefix="mvd_ds-prove-") as place:
        folder = Path(place) / "videos"
        folder.mkdir()
        write_videos(folder, FILES)
        few = device.type == "cpu"
        options = DataBenchOptions(files=FILES, clips=8 if few else 64, rounds=1, prepare=False)
        found = measure(folder, [], options)
    stream = found["streams"]["as they are"]
    record.measure("clips of the loader", {"clips_per_second": stream["clips_per_second"], "readers": found["readers"]})
    record.require("the loader gives clips", stream["clips_per_second"] > 0)
