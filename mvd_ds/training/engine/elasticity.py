"""Elasticity: only as many processes train as divide the global batch, so that a run goes on with whatever devices are left."""

from __future__ import annotations

import os
import socket

from mvd_ds.config import BatchSettings
from mvd_ds.training.cluster import launched_rank
from mvd_ds.training.console import say


def leave_out_surplus(batch: BatchSettings) -> None:
    """Let the largest number of processes that divides the global batch go on; a surplus process ends here with code 0.

    Called before the process group is joined; accumulation follows from the number that is left. The launcher waits for
    the others: it ends a run early only for an exit code that is not 0.

    Raises:
        SystemExit: with code 0, on a process that is left out.
    """
    rank, launched = launched_rank(), int(os.environ.get("WORLD_SIZE", "1"))
    world = batch.admissible_processes(launched)
    if world == launched:
        return
    if rank >= world:
        say(f"rank {rank} of {launched} on {socket.gethostname()} stays idle")
        raise SystemExit(0)
    if rank == 0:
        idle = f"rank {world} idles" if launched - world == 1 else f"ranks {world} to {launched - 1} idle"
        say(
            f"batch.global {batch.global_} is not divisible by batch.micro {batch.micro} x {launched} processes: {world} go on, "
            f"with accumulation {batch.accumulation_steps(world)}, and {idle}; another batch.micro may use them"
        )
    os.environ["WORLD_SIZE"] = str(world)
