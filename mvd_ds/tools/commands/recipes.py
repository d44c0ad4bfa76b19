"""The command ``recipes``: list the shipped recipes, or print one."""

from __future__ import annotations

import argparse

SUMMARY = "list the shipped recipes, or print one"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``recipes`` to its parser."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="recipe to print as it is written")


def run(options: argparse.Namespace) -> None:
    """Print one recipe, or a line for each."""
    from mvd_ds.config import find_recipe, recipe_names

    if options.name:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
        return
    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# What:").strip()
        print(f"{name:<30}{first}")
