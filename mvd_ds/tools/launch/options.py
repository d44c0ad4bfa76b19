"""The command ``launch`` and its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.tools.parser import add_recipe

SUMMARY = "start a command through deepspeed on one host or many, restart it when it fails, leave nothing behind"


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
    from mvd_ds.tools.launch.launch_options import LaunchOptions
    from mvd_ds.tools.launch.supervisor import launch

    return launch(LaunchOptions.parsed(options))
