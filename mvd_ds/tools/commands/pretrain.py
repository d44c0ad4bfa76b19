"""The command ``pretrain``: stage one trains an autoencoder on masked patches."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "stage one: train to recover masked patches of images or videos (MAE, VideoMAE)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``pretrain`` to its parser."""
    add_recipe_of(parser, "pretrain", "videomae_base data.manifest=data/train.txt run.output=runs/teacher")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "train.train", "pretrain")
