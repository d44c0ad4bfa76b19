"""The command ``prepare``: examine videos and make files that are quick to read."""

from __future__ import annotations

import argparse

from mvd_ds.files import ConfigError
from mvd_ds.tools.parser import above_zero, positive

SUMMARY = "examine videos, report broken ones, and make files that are quick to read; goes on where it was stopped"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare`` to its parser."""
    add = parser.add_argument
    source = (
        "folder, manifest, CSV (Kinetics, or path,label), Something-Something JSON, or the address of one: s3://bucket/videos/"
    )
    add("source", metavar="SOURCE", help=source)
    add("output", metavar="OUT", help="folder to write: train.txt or val.txt, and beside it a folder with the rest")
    split = "name of the manifest, NAME.txt (default: val or test if SOURCE is called so, else train)"
    add("--split", metavar="NAME", help=split)
    add("--videos", metavar="FOLDER", help="folder or address of the videos that a list names (default: the list's folder)")
    add("--classes", metavar="FILE", help="class names: JSON, or the training split's manifest (default: the list's)")
    add("--verify", action="store_true", help="decode every frame (0.1 s for 10 s of video)")
    add("--encode", choices=("h264", "mjpeg"), help="encode anew, quick to decode: h264 in short groups, mjpeg quicker still")
    add("--short-side", type=positive, metavar="PIXELS", help="with --encode: scale larger videos down to this short side")
    group = "with --encode h264: frames from key frame to key frame (default %(default)s)"
    add("--group", type=positive, default=16, metavar="FRAMES", help=group)
    add("--quality", type=positive, metavar="NUMBER", help="smaller is better (default: 20 for h264, 5 for mjpeg)")
    add("--shards", action="store_true", help="pack into tar files, which webdataset can read, too")
    add("--shard-mib", type=positive, default=512, metavar="SIZE", help="size of a tar file (default %(default)s)")
    add("--workers", type=int, default=0, metavar="COUNT", help="processes (default: one per core)")
    add("--part", metavar="I/N", help="look at and encode the I-th of N parts alone, as one of N hosts that see this folder")
    add("--join", action="store_true", help="pack what N parts have prepared, and write the manifest that one host would write")
    limit = "a file that takes longer is given up and named in the report (default %(default)s)"
    add("--seconds-per-file", type=above_zero, default=300.0, metavar="SECONDS", help=limit)


def run(options: argparse.Namespace) -> None:
    """Prepare the videos.

    Raises:
        ConfigError: for settings of an encoding that was not asked for, before anything large is imported.
    """
    if options.encode is None and (options.short_side or options.quality):
        raise ConfigError("--short-side and --quality say how to encode: add --encode h264 or --encode mjpeg")
    if options.part is not None and options.join:
        raise ConfigError("--part does a part, --join writes the manifest when all parts are done: give one of them")
    from mvd_ds.data.prepare.parts import Part
    from mvd_ds.data.remote.addresses import place_of
    from mvd_ds.runs.prepare import options_of, prepare_videos

    part = Part.of(options.part) if options.part is not None else None
    output = place_of(options.output)
    if isinstance(output, str):
        raise ConfigError(f"{output}: OUT is a folder of this machine; write there, and copy it to the store")
    source = place_of(options.source)
    videos, classes = (None if text is None else place_of(text) for text in (options.videos, options.classes))
    prepare_videos(source, output, videos, classes, options_of(options), options.split, part, options.join)
