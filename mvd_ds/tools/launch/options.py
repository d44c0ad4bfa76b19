"""The command ``launch``: its options, and the ranges that their values must lie in."""

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
from mvd_ds.tools.commands.recipe_options import add_recipe

SUMMARY = "start a command through deepspeed on one host or many, restart it when it fails, leave nothing behind"

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``launch`` to its parser."""
    where = parser.add_argument_group("where")
    where.add_argument("--hostfile", type=Path, metavar="FILE", help="`NAME slots=N` a line; starts them all through pdsh")
    where.add_argument("--slurm", action="store_true", help="the hosts of this SLURM job, through srun")
    where.add_argument("--node-rank", type=int, metavar="K", help="start only line K (from 0) of the hostfile, here, without ssh")
    where.add_argument("--one-rank", action="store_true", help="become the rank that RANK, WORLD_SIZE ... describe")
    where.add_argument("--processes", type=int, metavar="N", help="processes on each host (default: its devices; 1 without)")
    where.add_argument("--master-addr", metavar="HOST", help="address of rank 0's host (default: the first of its `hostname -I`)")
    where.add_argument("--port", type=int, help="port for rendezvous (default: from the job's number, another each attempt)")
    given = parser.add_argument_group("environment")
    given.add_argument("--settings", type=Path, action="append", default=[], metavar="FILE", help="KEY=VALUE lines for all ranks")
    given.add_argument("--forward", action="append", default=[], metavar="NAME", help="also hand on this variable, or NAME*")
    given.add_argument("--deepspeed", default="", metavar="OPTIONS", help="more options of the deepspeed launcher, in one word")
    policy = parser.add_argument_group("when it fails")
    policy.add_argument("--restarts", type=int, default=3, metavar="N", help="in a row without a new checkpoint (default 3)")
    policy.add_argument("--backoff-seconds", type=float, default=10.0, metavar="S", help="before the first; doubles, up to 300")
    policy.add_argument("--grace-seconds", type=float, default=240.0, metavar="S", help="to save after a signal (default 240)")
    policy.add_argument("--min-hosts", type=int, default=1, metavar="N", help="give up when fewer are healthy (default 1)")
    policy.add_argument("--no-check", dest="check_hosts", action="store_false", help="do not ask for sick hosts before a restart")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the exact command and environment, say which data, weights or engine files are missing, start nothing",
    )
    parser.add_argument("train_command", metavar="COMMAND", help="pretrain, distill, finetune, evaluate, features or probe")
    add_recipe(parser)


def run(options: argparse.Namespace) -> int:
    """Launch the training."""
    from mvd_ds.tools.launch.supervisor import launch

    return launch(LaunchOptions.parsed(options))
