"""The command ``bench start MANIFEST``: the time from the manifest to the first batch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from mvd_ds.data.loader import ClipLoader
from mvd_ds.tools.bench.data import clip_recipe
from mvd_ds.training.reporting.memory import resident_bytes
from mvd_ds.training.reporting.provenance import machine, versions

_READ = """
import json, sys, time
from mvd_ds.data.manifests.manifest import read_manifest
began = time.monotonic()
lines = len(read_manifest(sys.argv[1], sys.argv[2] or None).refs)
seconds = time.monotonic() - began
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"lines": lines, "manifest_seconds": seconds, "manifest_peak_mib": int(peak) / 1024}))
"""


def measure_start(manifest: Path | str, overrides: list[str]) -> dict[str, Any]:
    """Return seconds to the first batch, from the start of this process and from that of the loader, which reads the manifest.

    ``manifest_seconds`` and ``manifest_peak_mib`` are of a process that does nothing but read it; the latter is all the memory
    that it takes. ``peak_mib`` is that of this process, with torch.

    Raises:
        ConfigError: for a faulty manifest or setting.
    """
    recipe = clip_recipe(manifest, overrides)
    began = time.time()
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    batches = loader.batches(0, 10**9)
    next(batches)
    first = time.time()
    loader.close()
    command = [sys.executable, "-c", _READ, recipe.data.manifest, recipe.data.root or ""]
    read = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return {
        "manifest": str(manifest),
        **read,
        "workers": recipe.data.workers,
        "loader_to_first_batch_seconds": first - began,
        "start_to_first_batch_seconds": first - psutil.Process().create_time(),
        "peak_mib": resident_bytes("VmHWM") / 2**20,
        "machine": machine(),
        "versions": versions(),
    }
