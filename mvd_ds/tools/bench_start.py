"""``bench start MANIFEST``: how long it takes from the manifest to the first batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.mixture import read_mixture
from mvd_ds.tools.bench_data import clip_recipe
from mvd_ds.training.memory import resident_bytes
from mvd_ds.training.provenance import machine, versions


def measure_start(manifest: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds to read the manifest, to have all workers at work, and to the first batch; MiB that the manifest takes.

    Raises:
        ConfigError: for a faulty manifest or setting.
    """
    recipe = clip_recipe(manifest, overrides)
    before, began = resident_bytes(), time.monotonic()
    mixture = read_mixture(recipe.data)
    read = time.monotonic()
    held = (resident_bytes() - before) / 2**20
    del mixture
    started = time.monotonic()
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    batches = loader.batches(0, 10**9)
    next(batches)
    first = time.monotonic()
    loader.close()
    return {
        "manifest": str(manifest),
        "lines": loader.clips_in_manifest,
        "workers": recipe.data.workers,
        "manifest_seconds": read - began,
        "manifest_mib": held,
        "start_to_first_batch_seconds": first - started,
        "peak_mib": resident_bytes("VmHWM") / 2**20,
        "machine": machine(),
        "versions": versions(),
    }
