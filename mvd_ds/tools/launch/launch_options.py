"""The options of one launch as the rest of this wing takes them, and the ranges that their values must lie in."""

from __future__ import annotations

import argparse
import math
import os
import secrets
import shlex
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from mvd_ds.files import ConfigError

#: Ports for rendezvous: above the services, below 32768, where Linux begins to hand out ports to outgoing connections.
FIRST_PORT, PORTS = 20000, 12000
#: Variables in which schedulers name a job; the first that is set counts.
JOB_VARIABLES = ("MVD_DS_JOB_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
#: Lowest and highest value of options.
RANGES = (
    ("processes", 1, 1024),
    ("port", 1, 65535),
    ("restarts", 0, math.inf),
    ("backoff_seconds", 0, math.inf),
    ("grace_seconds", 0, math.inf),
    ("min_hosts", 1, math.inf),
)


@dataclass(frozen=True)
class LaunchOptions:
    """The options of one ``launch``: those of the command line, in its units."""

    command: str
    recipe: str
    overrides: tuple[str, ...]
    hostfile: Path | None = None
    slurm: bool = False
    node_rank: int | None = None
    one_rank: bool = False
    processes: int | None = None
    master_addr: str | None = None
    port: int | None = None
    settings: tuple[Path, ...] = ()
    forward: tuple[str, ...] = ()
    deepspeed: tuple[str, ...] = ()
    restarts: int = 3
    backoff_seconds: float = 10.0
    grace_seconds: float = 240.0
    min_hosts: int = 1
    check_hosts: bool = True
    dry_run: bool = False
    launch: str = field(default_factory=lambda: secrets.token_hex(8))
    """Mark of every process of this launch."""

    @classmethod
    def parsed(cls, options: argparse.Namespace) -> LaunchOptions:
        """Return the options that a parsed command line gives.

        Raises:
            ConfigError: if an option is out of its range, or options contradict each other.
        """
        from mvd_ds.tools.doctor.ssh import require_host_name

        given = {name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__}
        lists = {name: tuple(given[name]) for name in ("overrides", "settings", "forward")}
        for name, lowest, highest in RANGES:
            if given[name] is not None and not lowest <= given[name] <= highest:
                allowed = f"{lowest} or more" if highest == math.inf else f"from {lowest} to {highest:g}"
                raise ConfigError(f"launch: --{name.replace('_', '-')} {given[name]:g}: it must be {allowed}")
        try:
            passed_on = tuple(shlex.split(options.deepspeed))
        except ValueError as error:
            raise ConfigError(f"launch: --deepspeed {options.deepspeed}: {error}") from None
        made = cls(**given | lists | {"command": options.train_command, "deepspeed": passed_on})
        if "run.seed={seed}" in made.overrides:
            raise ConfigError(
                "launch: run.seed={seed}: only a job array fills in {seed}, each task its own number (sbatch --array 0-4 "
                "launchers/slurm.sbatch ...); elsewhere give a number: run.seed=0"
            )
        if made.slurm and (made.hostfile or made.node_rank is not None):
            raise ConfigError("launch: --slurm finds hosts and node ranks itself; leave out --hostfile and --node-rank")
        if made.node_rank is not None and made.hostfile is None:
            raise ConfigError("launch: --node-rank needs --hostfile with all nodes, the same on each of them")
        if made.one_rank and (made.slurm or made.hostfile or made.processes):
            raise ConfigError("launch: --one-rank is for ranks that a scheduler starts; leave out what says where they run")
        if made.hostfile is not None and made.processes is not None:
            raise ConfigError("launch: the hostfile's slots=N say how many processes a host has; leave out --processes")
        if made.master_addr is not None:
            require_host_name(made.master_addr, "launch: --master-addr")
        return made

    @property
    def mode(self) -> str:
        """Return local, hostfile (pdsh), slurm, node (one of several that something else starts) or rank (the same for ranks)."""
        if self.one_rank:
            return "rank"
        if self.slurm:
            return "slurm"
        if self.hostfile is None:
            return "local"
        return "hostfile" if self.node_rank is None else "node"

    def rendezvous_port(self, attempt: int) -> int:
        """Return a port that is equal on all nodes and new in each attempt: a dead attempt may hold its port for a minute."""
        if self.port is not None:
            return self.port
        job = next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), None)
        if job is None and self.mode == "node":
            raise ConfigError(f"launch: nodes must agree on a port: give --port, or one of {', '.join(JOB_VARIABLES)}")
        # A job that was requeued starts again at attempt 1 under its old number.
        key = f"{job or self.launch} {os.environ.get('SLURM_RESTART_COUNT', 0)} {attempt}"
        return FIRST_PORT + zlib.crc32(key.encode()) % PORTS
