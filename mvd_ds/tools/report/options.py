"""The command ``report``: write one page over finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write one self-contained HTML page, and its figures as JSON, over finished runs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report`` to its parser."""
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="run folders, in the order to show them")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder for report.html and report.json")
    add("--pdf", action="store_true", help="print it to report.pdf, too, by an installed chromium")


def run(options: argparse.Namespace) -> None:
    """Write the report."""
    from mvd_ds.tools.report.report import write_report
    from mvd_ds.training.liveness.folder_owner import FolderOwner

    with FolderOwner(options.output, "--output").take():
        write_report(options.runs, options.output, options.pdf)
