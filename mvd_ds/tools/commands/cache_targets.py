"""The command ``cache-targets``: what the teachers of a distillation give of fixed views is kept on disk."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "keep on disk what the teachers of a distillation give of fixed views; distill then loads none"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cache-targets`` to its parser."""
    add_recipe_of(parser, "cache-targets", "mvd_base_from_base data.manifest=data/train.txt targets.cache=data/targets")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "caching.cache_targets.cache_targets", "distill")
