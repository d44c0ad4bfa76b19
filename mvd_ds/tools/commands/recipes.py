"""The command ``recipes``: list the shipped recipes, or print one."""

from __future__ import annotations

import argparse

from mvd_ds.files import ConfigError

SUMMARY = "list the shipped recipes, or print one"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``recipes`` to its parser."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="recipe to print as it is written")
    parser.add_argument("--all", action="store_true", help="with NAME: print all settings, those with their default value too")


def run(options: argparse.Namespace) -> None:
    """Print one recipe, or a line for each.

    Raises:
        ConfigError: if there is no such recipe.
    """
    from mvd_ds.config import find_recipe, load_recipe, recipe_names, to_yaml

    if options.all and options.name:
        print(to_yaml(load_recipe(options.name)), end="")
        return
    if options.all:
        raise ConfigError("recipes --all: name a recipe, or see `python -m mvd_ds settings`")
    if options.name:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
        return
    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# What:").strip()
        print(f"{name:<30}{first}")
