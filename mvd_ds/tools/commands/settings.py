"""The command ``settings``: explain the settings of recipes."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from typing import TYPE_CHECKING

from mvd_ds.files import ConfigError, did_you_mean

if TYPE_CHECKING:
    from mvd_ds.config.reference import Setting

SUMMARY = "explain every setting, or those of a recipe with their values: type, default, meaning"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``settings`` to its parser."""
    name = "a recipe, a command, or the beginning of a key such as data.clip (default: all settings)"
    parser.add_argument("name", metavar="NAME", nargs="?", help=name)
    overrides = "after a recipe: settings that replace its own"
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=overrides)


def run(options: argparse.Namespace) -> None:
    """Print the settings that were asked for.

    Raises:
        ConfigError: if there is no recipe, command or setting of that name.
    """
    from pathlib import Path

    from mvd_ds.config import load_recipe, recipe_names
    from mvd_ds.config.faults import SYNONYMS
    from mvd_ds.config.reference import NAME, all_settings, as_yaml, settings_in

    name = options.name
    if name is not None and (name in recipe_names() or Path(name).is_file()):
        for setting, value in settings_in(load_recipe(name, options.overrides)):
            _print(setting, as_yaml(value))
        return
    settings = all_settings()
    if name is not None:
        pattern = {setting.key: re.compile(re.escape(setting.key).replace(NAME, r"[^.]+")) for setting in settings}
        wanted = [s for s in settings if f"{s.key}.".startswith(f"{name}.") or pattern[s.key].fullmatch(name)]
        wanted = wanted or [s for s in settings if name in s.commands]
        if not wanted:
            keys = {setting.key for setting in settings} | {setting.key.rpartition(".")[2] for setting in settings}
            wanted_name = name.lower().replace("-", "_")
            meant = next((key for key, names in SYNONYMS.items() if key in keys and wanted_name in names.split()), None)
            listed = "`python -m mvd_ds settings` lists them all"
            hint = f"did you mean '{meant}'?" if meant else did_you_mean(name, {*recipe_names(), *keys}, listed)
            raise ConfigError(f"settings {name}: is neither a recipe nor a command nor a setting; {hint}")
        settings = wanted
    for setting in settings:
        _print(setting)


def _print(setting: Setting, value: str | None = None) -> None:
    """Print a setting: its key with a value or the default, its type and commands, and its docstring below."""
    from mvd_ds.config.reference import REQUIRED

    if value is None:
        shown = "" if setting.default == REQUIRED else f"={setting.default}"
        facts = [setting.type, *([REQUIRED] if not shown else []), ", ".join(setting.commands)]
    else:
        shown = f"={value}"
        facts = [setting.type, *([f"default {setting.default}"] if setting.default not in (value, REQUIRED) else [])]
    print(f"{setting.key}{shown}   ({'; '.join(facts)})")
    width = min(shutil.get_terminal_size((120, 24)).columns, 140)
    print(textwrap.fill(setting.text, width, initial_indent="    ", subsequent_indent="    "))
