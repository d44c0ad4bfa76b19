"""The command ``features``: an encoder's features are written for every video."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "write an encoder's features of every video, in files with an index"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``features`` to its parser."""
    add_recipe_of(parser, "features", "features weights=runs/student/model data.manifest=data/train.txt")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "extract.extract", "features")
