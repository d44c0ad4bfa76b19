"""The hosts of a launch: read from a hostfile or from SLURM, and chosen so that the batch divides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.tools.doctor.ssh import read_hostfile, require_host_name

#: Devices of a node that a dry run outside of a job shows.
USUAL_GPUS = 8


class Host(NamedTuple):
    """A host and its number of processes: one line of a hostfile."""

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{self.name} slots={self.slots}"


def read_hosts(path: Path) -> list[Host]:
    """Return the hosts in the order of the file, which is that of the ranks.

    Raises:
        ConfigError: naming file and line.
    """
    return [Host(name, slots) for name, slots in read_hostfile(path).items()]


def slurm_hosts(processes: int | None, dry_run: bool = False) -> list[Host]:
    """Return the hosts of this SLURM job, in the order in which srun numbers them.

    Args:
        processes: number of processes on each host; None takes the GPUs that SLURM gave to each.
        dry_run: outside of a job, one node of a made-up name stands for those of the job.

    Raises:
        ConfigError: outside of a job, or where the number of processes is not known.
    """
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if not nodes and dry_run:
        assumed = "" if processes else f" with {USUAL_GPUS} GPUs, which is assumed (--processes says another number)"
        print(f"launch: no SLURM job here: shown for one node, NODE{assumed}; sbatch decides how many", file=sys.stderr)
        return [Host("NODE", processes or USUAL_GPUS)]
    if not nodes:
        raise ConfigError("launch --slurm: there is no SLURM_JOB_NODELIST; start it inside a job: sbatch launchers/slurm.sbatch")
    slots = processes or _gpus_on_node()
    if not slots:
        raise ConfigError(
            "launch --slurm: the job has no GPUs (--gpus-per-node); say how many processes a host has (--processes)"
        )
    try:
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"launch --slurm: scontrol show hostnames {nodes} failed: {error}") from None
    return [Host(require_host_name(name, "scontrol show hostnames"), slots) for name in names.split()]


def _gpus_on_node() -> int:
    text = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return int(text) if text.isdecimal() else 0


def admissible(hosts: list[Host], recipe: LearningRecipe) -> list[Host]:
    """Return as many of the first hosts as divide the recipe's global batch; empty if no number does."""
    for count in range(len(hosts), 0, -1):
        try:
            recipe.batch.accumulation_steps(sum(host.slots for host in hosts[:count]))
        except ConfigError:
            continue
        return hosts[:count]
    return []
