"""The command ``preflight``: a short trial of a training before it is started on a cluster."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "try pretrain or distill on 64 clips: memory, speed and statistics of the targets"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``preflight`` to its parser."""
    add_recipe_of(parser, "preflight", "mvd_base_from_base data.manifest=data/train.txt")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "preflight.preflight", None)
