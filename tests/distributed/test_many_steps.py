"""Sharded teachers give what whole ones give, a thousand times, and take no more memory the last time than early on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import theilslopes

from launching import launch_script
from nightly_record import record

pytestmark = [pytest.mark.launch, pytest.mark.nightly]

SCRIPT = Path(__file__).with_name("many_steps.py")
LIBAIO = Path("/usr/include/libaio.h")


@pytest.mark.parametrize("placement", ["zero3", "zero3_node", "zero3_offload", "zero3_nvme"])
def test_a_thousand_forwards(placement: str, shrunk: list[str], tmp_path: Path) -> None:
    if placement == "zero3_nvme" and not LIBAIO.exists():
        pytest.skip(f"{LIBAIO}: DeepSpeed's reader is compiled against it; apt-get install libaio-dev")
    # Shards of at least 1 MiB go to disk, smaller ones stay in memory.
    width = 512 if placement == "zero3_nvme" else 256
    sizes = (f"embed_dim={width}", "depth=2", "weights=random")
    wide = [f"teachers.{name}.{key}" for name in ("image", "video") for key in sizes]
    folder = f"engine.nvme_folder={tmp_path / 'disk'}"
    done = launch_script(2, SCRIPT, placement, "1000", *shrunk, *wide, folder, timeout=1800)
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["same"]
    assert (found["bytes_on_disk"] > 2**20) == (placement == "zero3_nvme")
    assert not list(tmp_path.glob("disk/*")), "shards on disk are removed at the end"
    # The allocator settles in the first hundreds. A line through the rest, by medians: a single step of the heap is no leak.
    growth = theilslopes(found["memory"][2:]).slope
    record(
        "scale",
        f"a thousand forwards, {placement}",
        {"resident_mib_per_hundred": found["memory"], "growth_mib_per_hundred": growth},
    )
    assert growth < 0.5  # 5 KiB a forward, of two processes
