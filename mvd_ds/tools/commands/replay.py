"""The command ``replay``: run a step again that was not finite."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "run a step that was not finite again in one process, and name the clip and the tensor"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``replay`` to its parser."""
    parser.add_argument("dump", metavar="DUMP", type=Path, help="folder RUN/dumps/step-NNN")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the step again."""
    from mvd_ds.tools.replay import replay

    return replay(options.dump, options.device)
