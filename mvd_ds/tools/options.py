"""Options of the commands that look at machines; apart from the tools, so that ``--help`` costs nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_doctor_options(command: argparse.ArgumentParser) -> None:
    """Options of ``doctor``."""
    command.add_argument("--hostfile", type=Path, metavar="FILE", help="hosts to ask through ssh: lines of 'HOST slots=DEVICES'")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all findings, by host")
    command.add_argument(
        "--folder",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="of runs or data, shared by all hosts",
    )
    # How a host answers the doctor that asks it.
    command.add_argument("--answer", choices=("host", "group"), help=argparse.SUPPRESS)
    command.add_argument("--token", default="", help=argparse.SUPPRESS)


def add_plan_options(command: argparse.ArgumentParser) -> None:
    """Options of ``plan`` besides recipe and settings."""
    command.add_argument("--gpus", type=positive, default=8, metavar="COUNT", help="devices in all (default %(default)s)")
    command.add_argument("--gpu", default="h200", metavar="NAME", help="kind of device (default %(default)s)")
    command.add_argument("--network", metavar="RATE", help="400Gb/s: one adapter a GPU; 2x200Gb/s: the adapters of a node")
    command.add_argument("--gpus-per-node", type=positive, metavar="COUNT", help="devices of a node")
    command.add_argument("--cores-per-node", type=positive, metavar="COUNT", help="CPU cores of a node")
    command.add_argument("--clips", type=positive, metavar="COUNT", help="clips of an epoch (default: the manifest's)")
    command.add_argument(
        "--decode",
        type=above_zero,
        default=65.0,
        metavar="MS",
        help="CPU milliseconds that loading a clip takes (default %(default)s: 340 x 256 H.264; prepared files: 27)",
    )
    command.add_argument(
        "--efficiency",
        type=above_zero,
        default=0.45,
        metavar="SHARE",
        help="of the device's matrix rate that a step reaches (default %(default)s, an assumption)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw speed and cost over 1 to 1,024 GPUs")


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ValueError: for anything else; argparse names option and value.
    """
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def above_zero(text: str) -> float:
    """A number above 0.

    Raises:
        ValueError: for anything else; argparse names option and value.
    """
    if not float(text) > 0:
        raise ValueError(text)
    return float(text)
