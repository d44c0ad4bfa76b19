"""The command ``doctor``: examine hosts and devices before a training starts."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "examine hosts and devices, and name what is missing and the command that mends it"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``doctor`` to its parser."""
    add = parser.add_argument
    add("--hostfile", type=Path, metavar="FILE", help="hosts to ask through ssh: lines of 'HOST slots=DEVICES'")
    add("--json", type=Path, metavar="FILE", help="write all findings, by host")
    shared = "folders of runs or data that all hosts share"
    add("--folder", nargs="+", action="extend", default=[], metavar="FOLDER", help=shared)
    # A doctor that asks other hosts calls itself there with these two.
    add("--answer", choices=("host", "group"), help=argparse.SUPPRESS)
    add("--token", default="", help=argparse.SUPPRESS)
    parser.epilog = "Exit code 0: healthy; 1: something that stops training was found."


def run(options: argparse.Namespace) -> int:
    """Examine, and print the page."""
    from mvd_ds.data.remote.addresses import path_here
    from mvd_ds.tools.doctor.doctor import answer_doctor, doctor

    folders = [path_here(folder) for folder in options.folder]
    if options.answer:
        return answer_doctor(options.answer, folders, options.token)
    return doctor(options.hostfile, options.json, folders)
