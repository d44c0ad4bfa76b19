"""The command line of ``prove``; nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.tools.parser import above_zero

SUMMARY = "prove a machine in minutes: every kernel, engine and step against fp32 on the CPU, then speed, beside the plan"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prove``; its exit code is 0 where nothing failed, 1 where a check or a part did."""
    add = parser.add_argument
    add("--minutes", type=above_zero, default=10.0, metavar="NUMBER", help="for all parts together (default %(default)s)")
    results = "JSON to write, with a page for a browser beside it; parts that are in it already are not run again"
    add("--output", type=Path, default=Path("prove.json"), metavar="FILE", help=f"{results} (default %(default)s)")
    add("--device", choices=("auto", "cpu"), default="auto", help="auto: GPUs where there are some")
    add("--only", nargs="+", default=[], metavar="PART", help="run these parts alone, even those that were run")
    add("--again", action="store_true", help="run every part again")
    # How the command runs each of its parts in a process of its own.
    add("--part", help=argparse.SUPPRESS)
    add("--answer", type=Path, help=argparse.SUPPRESS)
    add("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run all parts, or the one that the command has started this process for."""
    if options.part:
        from mvd_ds.tools.prove.parts import answer_part

        answer_part(options.part, options.answer, options.device, options.seconds)
        return 0
    from mvd_ds.tools.prove.prove import prove

    return prove(options.minutes, options.output, options.device, options.only, options.again)
