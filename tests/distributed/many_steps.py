"""Run under the launcher by test_many_steps.py: teachers of every placement, forward after forward.

Prints one line of JSON on rank 0: memory held by all ranks, MiB, after each hundred.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

# torch keeps the last 2,000 collectives with their tracebacks: 2 MiB a process, and the first of them would look like a leak.
os.environ["TORCH_FR_BUFFER_SIZE"] = "0"

import torch

from mvd_ds.models.teachers import plan_teacher
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.deepspeed_start import start_teacher
from mvd_ds.training.reporting.memory import resident_bytes
from shrinking import shipped


def held_bytes() -> int:
    """Resident bytes of this process without the holes of its heap: glibc hands those back, from all threads' heaps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def main(placement: str, forwards: int, overrides: list[str]) -> None:
    recipe = shipped(overrides)
    with joined_cluster(5, "cpu") as cluster, torch.no_grad():
        whole = {name: plan_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
        placed = {name: start_teacher(plan, placement, recipe, cluster, name) for name, plan in whole.items()}
        oracle = {name: plan.build() for name, plan in whole.items()}
        clip = recipe.data.clip
        generator = torch.Generator().manual_seed(cluster.rank)
        same, memory = True, []
        for index in range(forwards):
            frames = torch.rand(2, 3, clip.frames, clip.size_px, clip.size_px, generator=generator)
            outputs = {name: teacher(frames) for name, teacher in placed.items()}
            if index % 100 == 99:
                same &= all(output.equal(oracle[name](frames)) for name, output in outputs.items())
                memory.append(sum(cluster.gather(held_bytes())) / 2**20)
        disk = Path(recipe.engine.nvme_folder or "")
        on_disk = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
        found = {"same": all(cluster.gather(same)), "memory": memory, "bytes_on_disk": on_disk}
        if cluster.is_main:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main(arguments[0], int(arguments[1]), arguments[2:])
