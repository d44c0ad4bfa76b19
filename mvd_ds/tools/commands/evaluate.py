"""The command ``evaluate``: a classifier is tested on several views of every video."""

from __future__ import annotations

import argparse
import os

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "test a classifier on several views of every video"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate`` to its parser."""
    add_recipe_of(parser, "evaluate", "evaluate_5x3 weights=runs/finetuned/model data.manifest=data/val.txt")


def run(options: argparse.Namespace) -> None:
    """Evaluate the recipe that the command line names, and write its page."""
    folder = run_recipe(options, "evaluate.evaluate", "evaluate")
    if os.environ.get("RANK", "0") == "0":
        from mvd_ds.tools.report.evaluation_page import write_evaluation_page

        write_evaluation_page(folder)
