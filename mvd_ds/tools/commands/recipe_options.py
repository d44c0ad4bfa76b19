"""The options of commands that run a recipe, and the way from the command line to the function that runs it."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from mvd_ds.tools.parser import add_recipe


def add_recipe_of(parser: argparse.ArgumentParser, command: str, example: str) -> None:
    """Add the options of ``command``, which runs recipes of its own kind, with an example of its arguments.

    Every command of the epilog has a line of its own, however narrow the terminal is, so that it can be copied.
    """
    add_recipe(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"all settings:\n  python -m mvd_ds settings RECIPE\nexample:\n  python -m mvd_ds {command} {example}"
    parser.set_defaults(command=command)


def run_recipe(options: argparse.Namespace, function: str, command: str | None = None) -> Any:
    """Load the recipe that ``options`` name and hand it, with its name, to a function of the room ``runs``.

    Args:
        options: the parsed command line.
        function: ``FILE.NAME`` or ``FOLDER.FILE.NAME`` of the function in ``mvd_ds.runs``.
        command: the command whose recipes are accepted; None accepts those of every command.

    Raises:
        ConfigError: if the recipe or a setting is wrong.
    """
    from mvd_ds.config import find_recipe, load_recipe

    recipe = load_recipe(options.recipe, options.overrides, command)
    file, _, name = function.rpartition(".")
    return getattr(importlib.import_module(f"mvd_ds.runs.{file}"), name)(recipe, find_recipe(options.recipe).stem)
