"""The command ``tokenizer``: it learns a codebook for the tokens of a teacher, or for clips."""

from __future__ import annotations

import argparse

from mvd_ds.tools.commands.recipe_options import add_recipe_of, run_recipe

SUMMARY = "learn codes of a teacher's tokens, or of clips, which a student may learn in place of features"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tokenizer`` to its parser."""
    add_recipe_of(parser, "tokenizer", "kmeans_base data.manifest=data/train.txt teachers.video.weights=runs/teacher/model")


def run(options: argparse.Namespace) -> int | None:
    """Run the recipe that the command line names."""
    return run_recipe(options, "tokenizers.learn.learn_tokenizer", "tokenizer")
