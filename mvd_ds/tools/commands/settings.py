"""The command ``settings``: explain the settings of recipes."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from typing import TYPE_CHECKING

from mvd_ds.files import ConfigError

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
    from mvd_ds.config.reference import all_settings, as_yaml, settings_in

    name = options.name
    if name is not None and (name in recipe_names() or Path(name).is_file()):
        for setting, value in settings_in(load_recipe(name, options.overrides)):
            _print(setting, as_yaml(value))
        return
    settings = all_settings()
    if name is not None:
        wanted = [setting for setting in settings if _leads_to(name, setting.key)]
        wanted = wanted or [setting for setting in settings if name in setting.commands]
        if not wanted:
            hint = _hint(name, [setting.key for setting in settings], recipe_names())
            raise ConfigError(f"settings {name}: is neither a recipe nor a command nor a setting; {hint}")
        settings = wanted
    for setting in settings:
        _print(setting)


def _leads_to(name: str, key: str) -> bool:
    """Return whether ``name`` is ``key`` or the beginning of it; any name may stand for NAME."""
    from mvd_ds.config.reference import NAME

    words, parts = name.split("."), key.split(".")
    return len(words) <= len(parts) and all(part in (word, NAME) for word, part in zip(words, parts, strict=False))


def _hint(name: str, keys: list[str], recipes: list[str]) -> str:
    """Return the settings and groups that were probably meant: by their last word, by a synonym, or by a name that is near."""
    from mvd_ds.config.faults import SYNONYMS
    from mvd_ds.config.reference import NAME

    wanted = name.lower().replace("-", "_")
    whole = [".".join(parts[: count + 1]) for parts in (key.split(".") for key in keys) for count in range(len(parts))]
    by_last: dict[str, list[str]] = {}
    for key in dict.fromkeys(whole):
        by_last.setdefault(key.rpartition(".")[2], []).append(key)
    by_last.pop(NAME, None)
    meant = by_last.get(wanted) or [key for key, names in SYNONYMS.items() if key in keys and wanted in names.split()]
    if not meant:
        near = difflib.get_close_matches(name, {*recipes, *whole, *by_last}, n=1)
        meant = by_last.get(near[0], near) if near else []
    shown = " or ".join(f"'{key}'" for key in meant[:3])
    return f"did you mean {shown}?" if meant else "`python -m mvd_ds settings` lists them all"


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
