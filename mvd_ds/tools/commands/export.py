"""The command ``export``: write a model as one folder for use elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.files import ConfigError

SUMMARY = "write a classifier or an encoder as one folder that needs nothing else, and as a graph for other runtimes"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``export`` to its parser."""
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        type=Path,
        help="folder of a run or of a model, its adaptation.safetensors, or what convert reads",
    )
    add("folder", metavar="FOLDER", type=Path, help="folder to write; mvd_ds.load(FOLDER) opens it")
    add(
        "--to", metavar="FORMAT", help="write weights for other code instead, huggingface or another that convert --to list names"
    )
    add("--graph", nargs="+", choices=("torch", "onnx"), default=[], help="write model.pt2, model.onnx too")
    add(
        "--adaptors",
        nargs="*",
        metavar="NAME",
        help="keep the heads of these outputs of a student (none named: all), so that it answers in the spaces of its teachers",
    )
    add("--from", dest="from_format", metavar="FORMAT", help="format of SOURCE where its content does not tell")


def run(options: argparse.Namespace) -> None:
    """Export the model."""
    from mvd_ds.tools.convert import convert
    from mvd_ds.tools.export import export
    from mvd_ds.training.liveness.folder_owner import FolderOwner

    if options.to is not None:
        beside = ["--graph"] * bool(options.graph) + ["--adaptors"] * (options.adaptors is not None)
        if beside:
            raise ConfigError(f"export: {' and '.join(beside)} cannot stand beside --to {options.to}; run it twice")
        convert(options.source, options.folder, options.to, options.from_format)
        return
    with FolderOwner(options.folder, "FOLDER").take():
        export(options.source, options.folder, options.graph, options.from_format, options.adaptors)
