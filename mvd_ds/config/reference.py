"""A reference of the settings: each with its key, type, default and docstring, read from the typed tree itself."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mvd_ds.config.base import Settings
from mvd_ds.config.load import RECIPE_KINDS, dump, leaves
from mvd_ds.config.recipes import Recipe

#: Stands in a key for a name that the user chooses, such as a teacher's.
NAME = "NAME"
#: Stands in a key for the place of an element in a list.
PLACE = "0"
REQUIRED = "required"
#: Bound of every whole number, which guards the arithmetic and says nothing about a setting.
MOST = 10**9
_BOUNDS = (("ge", "{} or more"), ("gt", "above {}"), ("le", "at most {}"), ("lt", "below {}"))


class Setting(NamedTuple):
    """One setting of a recipe."""

    key: str
    """Dotted key, as an override names it."""
    type: str
    """Type in words of YAML, with its bounds."""
    default: str
    """Default value as YAML, or ``required``."""
    text: str
    """Docstring."""
    commands: tuple[str, ...] = ()
    """Commands whose recipes have it."""


def settings_of(kind: type[Settings], prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a node of the tree and of the nodes below it, in the order of their declaration."""
    for name, field in kind.model_fields.items():
        key = prefix + (field.alias or name)
        node, container = _node(field.annotation)
        if node is None or container or field.default is None:
            yield Setting(key, _type(field.annotation, field), _default(field), " ".join((field.description or "").split()))
        if node is not None:
            yield from settings_of(node, f"{key}{container}.")


def all_settings() -> list[Setting]:
    """Return every setting of every kind of recipe once, with the commands that know it; defaults may differ by command."""
    found: dict[tuple[str, str, str], Setting] = {}
    for kind in RECIPE_KINDS:
        commands = _commands(kind)
        for setting in settings_of(kind):
            known = found.setdefault((setting.key, setting.type, setting.default), setting)
            found[known[:3]] = known._replace(commands=(*known.commands, *commands))
    return sorted(found.values(), key=lambda setting: setting.key.split("."))


def settings_in(recipe: Recipe) -> list[tuple[Setting, Any]]:
    """Return every setting of a recipe with its value; names that the recipe chooses stand in the keys."""
    known = [(re.compile(re.escape(setting.key).replace(NAME, r"[^.]+")), setting) for setting in settings_of(type(recipe))]
    rows = []
    for key, value in leaves(dump(recipe)).items():
        # A value that is a mapping itself, such as a mixture of losses, is explained by the setting that holds it.
        places = (key, key.rpartition(".")[0])
        setting = next((setting for place in places for pattern, setting in known if pattern.fullmatch(place)), None)
        if setting is not None:
            rows.append((setting._replace(key=key), value))
    return rows


def _commands(kind: type[Recipe]) -> tuple[str, ...]:
    objectives = get_args(kind.model_fields["objective"].annotation)
    return tuple(dict.fromkeys(kind.model_construct(objective=objective).command for objective in objectives))


def _node(annotation: Any) -> tuple[type[Settings] | None, str]:
    """Return the node inside a field's type, and the part of a key between the field and the settings of the node."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation, ""
    origin = get_origin(annotation)
    for inner in get_args(annotation):
        node, container = _node(inner)
        if node is not None:
            return node, {dict: f".{NAME}", list: f".{PLACE}", tuple: f".{PLACE}"}.get(origin, "") + container
    return None, ""


def _default(field: FieldInfo) -> str:
    return REQUIRED if field.is_required() else as_yaml(field.get_default(call_default_factory=True))


def as_yaml(value: Any) -> str:
    """Return a value of a setting as it is written on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Settings):
        return as_yaml(dump(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return str(value) if value != "" else "''"


def _type(annotation: Any, field: FieldInfo | None = None) -> str:
    metadata = [*(field.metadata if field else ()), *getattr(annotation, "__metadata__", ())]
    given = [(text, getattr(item, name)) for item in metadata for name, text in _BOUNDS if hasattr(item, name)]
    bounds = [text.format(f"{value:g}") for text, value in given if value != MOST]
    return ", ".join([_bare_type(annotation), *dict.fromkeys(bounds)])


def _bare_type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(inner[0]) if not hasattr(inner[0], "__metadata__") else _bare_type(inner[0])
    if origin is Literal:
        return " | ".join(as_yaml(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(part) for part in inner)
    if origin is dict:
        return f"mapping of names to {_type(inner[1])}"
    if origin in (list, tuple) and inner:
        if origin is list or Ellipsis in inner:
            return f"list of {_type(inner[0])}"
        return "[" + ", ".join(_type(part) for part in inner) + "]"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "settings"
    return {type(None): "null", str: "text"}.get(annotation, getattr(annotation, "__name__", str(annotation)))
