"""The command ``probe``: linear probes measure what frozen features know."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "measure what frozen features know by linear probes"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``probe`` to its parser."""
    add_recipe_of(parser, "probe", "quickstart_probe run.output=runs/probe")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "probing.probe.probe", "probe")
