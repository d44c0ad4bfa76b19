"""Loading, overriding, validating and saving of recipes; every fault becomes one clear line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from mvd_ds.config.base import ENGINE_FOLDER, RECIPE_FOLDER, Settings
from mvd_ds.config.evaluation import EvaluateRecipe, FeaturesRecipe
from mvd_ds.config.faults import explain
from mvd_ds.config.finetuning import FinetuneRecipe
from mvd_ds.config.probing import ProbeRecipe
from mvd_ds.config.reading import apply_override, read_yaml
from mvd_ds.config.recipes import Recipe, TrainingRecipe
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.files import ConfigError, did_you_mean, one_line

RECIPE_KINDS: tuple[type[Recipe], ...] = (
    TrainingRecipe,
    TokenizerRecipe,
    FinetuneRecipe,
    ProbeRecipe,
    EvaluateRecipe,
    FeaturesRecipe,
)


def _kind_of(objective: object) -> type[Recipe] | None:
    for kind in RECIPE_KINDS:
        if objective in get_args(kind.model_fields["objective"].annotation):
            return kind
    return None


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*/*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the path of a recipe given by shipped name or by file.

    Raises:
        ConfigError: if there is none; the nearest shipped name is suggested.
    """
    shipped = next((path for path in RECIPE_FOLDER.glob("*/*.yaml") if path.stem == name), None)
    if shipped is not None:
        return shipped
    if os.path.isfile(os.path.expanduser(name)):
        return Path(name).expanduser()
    hint = did_you_mean(name, recipe_names(), "`python -m mvd_ds recipes` lists them")
    raise ConfigError(f"recipe '{one_line(name, 200)}' is neither a file nor a shipped recipe; {hint}")


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = (), command: str | None = None) -> Recipe:
    """Return the validated tree of recipe ``name`` with ``key.path=value`` overrides.

    Args:
        name: shipped recipe name or YAML file.
        overrides: ``key.path=value`` strings; the value is YAML, or the text as typed where the setting is a text.
        command: the command that will run it; a recipe of another command is refused.

    Raises:
        ConfigError: one line per fault, each with file, setting, value and remedy.
    """
    path = find_recipe(name)
    values = read_yaml(path, _kind_of)
    objectives = [override.partition("=")[2] for override in overrides if override.startswith("objective=")]
    kind = _kind_of(objectives[-1] if objectives else values.get("objective"))
    for override in overrides:
        apply_override(values, override, kind)
    recipe = _validated(values)
    if isinstance(recipe, list):
        own = _validated(read_yaml(path, _kind_of)) if overrides else recipe
        of_file = own if isinstance(own, list) else []
        lines = [f"{one_line(path) if fault in of_file else 'command line'}: {fault}" for fault in recipe]
        raise ConfigError("\n".join(lines))
    if command is not None and command != recipe.command:
        raise ConfigError(f"{one_line(path)}: objective {recipe.objective} is for `{recipe.command}`, not `{command}`")
    return recipe


def validate(values: dict[str, Any], origin: str) -> Recipe:
    """Return the typed tree of ``values``.

    Args:
        values: a plain tree, such as ``dump`` gives.
        origin: its name in messages.

    Raises:
        ConfigError: one line per fault.
    """
    recipe = _validated(values)
    if isinstance(recipe, list):
        raise ConfigError("\n".join(f"{origin}: {fault}" for fault in recipe))
    return recipe


def _validated(values: dict[str, Any]) -> Recipe | list[str]:
    """Return the typed tree of ``values``, or its faults, a line each."""
    kind = _kind_of(values.get("objective"))
    if kind is None:
        known = [name for k in RECIPE_KINDS for name in get_args(k.model_fields["objective"].annotation)]
        return [f"objective {one_line(repr(values.get('objective')), 100)} is not one of {', '.join(known)}"]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        return [explain(fault, kind) for fault in error.errors()]


def dump(settings: Settings) -> dict[str, Any]:
    """Return a tree as a plain dict that ``validate`` turns back."""
    return settings.model_dump(mode="json", by_alias=True)


def to_yaml(settings: Settings) -> str:
    """Return the YAML text of a resolved tree."""
    return yaml.safe_dump(dump(settings), sort_keys=False, allow_unicode=True)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a line ``key.path: old -> new`` for every leaf that differs between two dumped trees."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every value of a dumped tree by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def find_engine_config(name: str) -> Path:
    """Return the path of a DeepSpeed JSON given as a path or as a name in ds_configs/.

    Raises:
        ConfigError: if there is none.
    """
    for path in (Path(name), ENGINE_FOLDER / name):
        if path.is_file():
            return path
    near = ", ".join(sorted(path.name for path in ENGINE_FOLDER.glob("*.json")))
    raise ConfigError(f"engine config '{one_line(name, 200)}' is not a file; ds_configs/ has {near}")
