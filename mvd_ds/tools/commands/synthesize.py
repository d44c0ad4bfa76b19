"""The command ``synthesize``: write a sample set of videos with known labels."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write a sample set as H.264 files with two labels: what is seen (digits, or things in a game), and how it moves"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``synthesize`` to its parser."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="folder to write; train.txt and val.txt are its manifests")
    add("--world", choices=("digits", "doom"), default="digits", help="doom: ViZDoom's, an optional extra (default %(default)s)")
    add("--train", type=int, default=4000, metavar="CLIPS", help="training clips (default %(default)s)")
    add("--val", type=int, default=2000, metavar="CLIPS", help="held-out clips (default %(default)s)")
    add("--seed", type=int, default=0, help="the same seed writes the same clips (default %(default)s)")
    add("--size", type=int, default=48, metavar="PIXELS", help="side of a clip (default %(default)s)")
    add("--frames", type=int, default=16, help="frames of a clip (default %(default)s)")
    add("--workers", type=int, default=0, help="processes (default: one per core)")


def run(options: argparse.Namespace) -> None:
    """Write the sample set."""
    from mvd_ds.runs.synthesize import synthesize

    synthesize(
        options.folder, options.train, options.val, options.seed, options.size, options.frames, options.workers, options.world
    )
