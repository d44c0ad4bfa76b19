"""The command ``classify``: name what a classifier sees in video files."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "name what a classifier sees in video files"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``classify`` to its parser."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="folder of `finetune` or `export`, or file of trained prompts")
    add("videos", metavar="VIDEO", nargs="+", help="video files")
    add("--top", type=int, default=5, metavar="COUNT", help="classes to print (default %(default)s)")
    add("--segments", type=int, default=1, metavar="COUNT", help="clips along a video (default %(default)s)")
    add("--crops", type=int, default=1, metavar="COUNT", help="crops of a clip (default %(default)s)")
    add("--text-vectors", type=Path, metavar="FILE", help="classes by a teacher's text vectors; FOLDER then has adaptors")
    add("--adaptor", metavar="NAME", help="the summary adaptor of that teacher, where several have the width of the vectors")
    add(
        "--words",
        type=Path,
        metavar="FILE",
        help="classes by name, a line each or JSON with templates; FOLDER learnt from captions",
    )
    add("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")


def run(options: argparse.Namespace) -> None:
    """Classify the videos."""
    from mvd_ds.data.remote.addresses import path_here
    from mvd_ds.tools.classify import classify

    views = (options.top, options.segments, options.crops)
    classify(
        options.folder,
        [path_here(video) for video in options.videos],
        *views,
        options.device,
        options.text_vectors,
        options.adaptor,
        options.words,
    )
