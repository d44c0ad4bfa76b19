"""The command ``visualize``: draw what a network makes of videos."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.tools.parser import positive

SUMMARY = "draw what a network makes of videos: predictions, reconstruction, features, attention"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``visualize`` to its parser."""
    add = parser.add_argument
    model = "folder of a run or of its model: stage one, student, classifier, encoder"
    add("model", metavar="MODEL", type=Path, help=model)
    add("videos", metavar="VIDEO", nargs="+", help="video or image files")
    add("--output", type=Path, default=Path("pictures"), metavar="FOLDER", help="folder to write (default %(default)s)")
    add("--format", choices=("png", "gif", "mp4"), default="png", help="a page of frames, or moving (default %(default)s)")
    teacher = "for a student: weights of a teacher of its recipe, to compare with; may be given several times"
    add("--teacher", action="append", default=[], metavar="NAME=FOLDER", help=teacher)
    add("--heads", type=int, nargs="+", metavar="INDEX", help="heads of the last layer, from 0 (default: three, evenly spread)")
    add("--cell", type=positive, default=112, metavar="PIXELS", help="side of an image (default %(default)s)")
    add("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")


def run(options: argparse.Namespace) -> None:
    """Draw the pictures."""
    from mvd_ds.data.remote.addresses import path_here
    from mvd_ds.tools.visualize import visualize

    visualize(
        options.model,
        [path_here(video) for video in options.videos],
        output=options.output,
        format=options.format,
        teacher=options.teacher,
        heads=options.heads,
        cell=options.cell,
        device=options.device,
    )
