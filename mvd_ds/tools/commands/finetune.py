"""The command ``finetune``: a pretrained encoder is trained to classify videos."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "train a pretrained encoder to classify videos"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``finetune`` to its parser."""
    add_recipe_of(
        parser,
        "finetune",
        "finetune_folder data.manifest=data/train.txt validation.manifest=data/val.txt weights=runs/student/model",
    )


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "finetune.finetune", "finetune")
