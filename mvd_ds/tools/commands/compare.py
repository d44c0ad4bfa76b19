"""The command ``compare``: compare two sets of fine-tuned runs."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "compare the accuracy of two sets of fine-tuned runs, with a confidence interval"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``compare`` to its parser."""
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="run folders, one for each seed")
    add("--against", metavar="RUN", nargs="+", type=Path, required=True, help="run folders of the same seeds")
    add("--output", type=Path, metavar="FILE", help="JSON file to write")


def run(options: argparse.Namespace) -> None:
    """Compare the runs."""
    from mvd_ds.tools.compare import compare_runs

    compare_runs(options.runs, options.against, options.output)
