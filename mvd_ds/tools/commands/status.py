"""The command ``status``: say where a run stands."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "say in a line where a run stands; exit code 0 finished, 75 preempted, 1 failed, 3 running"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``status`` to its parser."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")


def run(options: argparse.Namespace) -> int:
    """Say where the run stands; the exit code says it to scripts."""
    from mvd_ds.tools.status import show_status

    return show_status(options.run)
