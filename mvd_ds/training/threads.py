"""The number of threads that a process computes with on the CPU, chosen in this one place unless OMP_NUM_THREADS is set.

It does not depend on ``data.workers``: the order of sums, and so the last bits of a loss, depend on the number of threads.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mvd_ds.training.cluster import launched_rank
from mvd_ds.training.console import say

VARIABLE = "OMP_NUM_THREADS"
TOPOLOGY = Path("/sys/devices/system/cpu")


def share_of_cores(cores: int, processes: int) -> int:
    """Return the threads of one of ``processes`` on a host: half of its cores; loader workers and other programs have the rest.

    Threads that wait for each other at every sum are slowed by each one whose core is taken. On 2 cores under a load of 5,
    fine-tuning trained about 50 clips a second with one thread and 3 with two.
    """
    return max(cores // processes // 2, 1)


def physical_cores() -> int:
    """Return the cores that this process may use; two hyper-threads are one core."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len({_core_of(number) for number in usable})


def _core_of(number: int) -> tuple[str, ...]:
    """Return what tells the core of a logical processor from the others, by Linux's topology; else its own number."""
    folder = TOPOLOGY / f"cpu{number}" / "topology"
    try:
        return tuple((folder / name).read_text(encoding="ascii").strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(number),)


def choose_threads(processes: int, is_cpu: bool) -> None:
    """Set the number of threads of this process, one of ``processes`` on this host; on a CPU, rank 0 says which."""
    if os.environ.get(VARIABLE):
        return
    cores = physical_cores()
    threads = share_of_cores(cores, processes)
    torch.set_num_threads(threads)
    if is_cpu and launched_rank() == 0:
        each = "each process computes" if processes > 1 else "this process computes"
        more = "s" * (threads > 1)
        say(f"{each} with {threads} thread{more} of {cores} cores; the loader has the rest; {VARIABLE} sets another number")
