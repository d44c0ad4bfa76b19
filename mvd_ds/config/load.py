"""Load a recipe, override it, validate it, save it; every fault becomes one clear line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from mvd_ds.config.base import ENGINE_FOLDER, RECIPE_FOLDER, Settings
from mvd_ds.config.evaluation import EvaluateRecipe, FeaturesRecipe, ProbeRecipe
from mvd_ds.config.finetuning import FinetuneRecipe
from mvd_ds.config.recipes import Recipe, TrainingRecipe
from mvd_ds.files import ConfigError, did_you_mean, one_line, printable

#: What PyYAML lets through from dates such as 2026-13-45, from deep nesting, and from values that are not what their tag says.
YAML_SLIPS = (ValueError, RecursionError, AttributeError, LookupError, TypeError)
RECIPE_KINDS: tuple[type[Recipe], ...] = (TrainingRecipe, FinetuneRecipe, ProbeRecipe, EvaluateRecipe, FeaturesRecipe)


def _kind_of(objective: object) -> type[Recipe] | None:
    for kind in RECIPE_KINDS:
        if objective in get_args(kind.model_fields["objective"].annotation):
            return kind
    return None


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*/*.yaml"))


def find_recipe(name: str) -> Path:
    """Path of a recipe given by shipped name or by file.

    Raises:
        ConfigError: if there is none; the nearest shipped name is suggested.
    """
    shipped = next((path for path in RECIPE_FOLDER.glob("*/*.yaml") if path.stem == name), None)
    if shipped is not None:
        return shipped
    if Path(name).is_file():
        return Path(name)
    hint = did_you_mean(name, recipe_names(), "`python -m mvd_ds recipes` lists them")
    raise ConfigError(f"recipe '{name}' is neither a file nor a shipped recipe; {hint}")


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = (), command: str | None = None) -> Recipe:
    """The validated tree of recipe ``name`` with ``key.path=value`` overrides.

    Args:
        name: shipped recipe name or YAML file.
        overrides: ``key.path=value`` strings; the value is YAML.
        command: the command that will run it; a recipe of another command is refused.

    Raises:
        ConfigError: one line per fault, each with file, setting, value and remedy.
    """
    path = find_recipe(name)
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    recipe = validate(values, str(path))
    if command is not None and command != recipe.command:
        raise ConfigError(f"{path}: objective {recipe.objective} is for `{recipe.command}`, not `{command}`")
    return recipe


def validate(values: dict[str, Any], origin: str) -> Recipe:
    """The typed tree of ``values``; ``origin`` names them in messages.

    Raises:
        ConfigError: one line per fault.
    """
    kind = _kind_of(values.get("objective"))
    if kind is None:
        known = [name for k in RECIPE_KINDS for name in get_args(k.model_fields["objective"].annotation)]
        raise ConfigError(f"{origin}: objective {one_line(repr(values.get('objective')), 100)} is not one of {', '.join(known)}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {_explain(fault, kind)}" for fault in error.errors())) from None


def dump(settings: Settings) -> dict[str, Any]:
    """Plain dict of a tree, such that ``validate`` gives it back."""
    return settings.model_dump(mode="json", by_alias=True)


def to_yaml(settings: Settings) -> str:
    """YAML text of a resolved tree."""
    return yaml.safe_dump(dump(settings), sort_keys=False, allow_unicode=True)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines ``key.path: old -> new`` for every leaf that differs between two dumped trees."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a dumped tree by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def find_engine_config(name: str) -> Path:
    """Path of a DeepSpeed JSON given as a path or as a name in ds_configs/.

    Raises:
        ConfigError: if there is none.
    """
    for path in (Path(name), ENGINE_FOLDER / name):
        if path.is_file():
            return path
    near = ", ".join(sorted(path.name for path in ENGINE_FOLDER.glob("*.json")))
    raise ConfigError(f"engine config '{name}' is not a file; ds_configs/ has {near}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: is not YAML: {getattr(error, 'problem', None) or one_line(error)}") from None
    except YAML_SLIPS as error:
        raise ConfigError(f"{path}: is not YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of settings, got {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    shown = one_line(override, 100)
    if not equals or not key:
        raise ConfigError(f"override '{shown}' is not of the form key.path=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, *YAML_SLIPS):
        if text != printable(text):
            fault = "the value holds a control character or is not UTF-8; rename the file or folder, or give a link to it"
            raise ConfigError(f"override '{shown}': {fault}") from None
        raise ConfigError(f"override '{shown}': the value is not YAML") from None
    # On a command line nothing is a comment and a line break is part of a name: `runs/run #1` is a path.
    is_plain = not text.lstrip().startswith(("'", '"', "[", "{", "&", "*", "!", "|", ">"))
    if is_plain and ("#" in text or "\n" in text) and (value is None or isinstance(value, str)):
        value = text
    *parents, leaf = key.split(".")
    node = values
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override '{shown}': '{one_line(parent, 100)}' is a value, not a group of settings")
    node[leaf] = value


def _explain(fault: Any, kind: type[Settings]) -> str:
    """One line for one pydantic fault: key path, value, what is wrong, nearest right name."""
    where = one_line(".".join(str(part) for part in fault["loc"]), 100)
    if fault["type"] == "extra_forbidden":
        names = _names_at(kind, fault["loc"][:-1])
        hint = did_you_mean(fault["loc"][-1], names, f"settings here are {', '.join(names)}")
        return f"{where}: unknown setting; {hint}"
    message = re.sub(r"\S{101,}", lambda word: one_line(word[0], 100), fault["msg"].removeprefix("Value error, "))
    if fault["type"] == "missing":
        return f"{where}: is required and not given"
    value = fault["input"]
    shown = "" if isinstance(value, dict | list) else f" {one_line(repr(value), 100)}"
    return f"{where}{shown}: {message}" if where else message


def _names_at(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """Setting names of the node that ``loc`` leads to."""
    for part in loc:
        fields = getattr(kind, "model_fields", None)
        if fields is None:
            break
        field = fields.get(part) or next((f for f in fields.values() if f.alias == part), None)
        if field is None:
            continue  # a key of a dict such as a teacher's name: stay at its value type
        kind = _settings_type(field.annotation)
    fields = getattr(kind, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _settings_type(annotation: Any) -> Any:
    """The Settings class inside ``X``, ``X | None`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for inner in get_args(annotation):
        found = _settings_type(inner)
        if found is not None:
            return found
    return None
