"""The command ``distill``: stage two trains a student on the features of frozen teachers."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "stage two: train a student to predict the features of frozen teachers"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``distill`` to its parser."""
    add_recipe_of(parser, "distill", "mvd_base_from_base data.manifest=data/train.txt teachers.video.weights=runs/teacher/model")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "train.train", "distill")
