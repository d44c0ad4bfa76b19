"""YAML of recipes and overrides as plain values: limited in size, with texts kept as they were typed."""

from __future__ import annotations

import stat
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from mvd_ds.config.base import Settings
from mvd_ds.files import ConfigError, describe_foreign, one_line

#: Errors that PyYAML raises besides its own: dates such as 2026-13-45, deep nesting, values that are not what their tag says.
YAML_SLIPS = (ValueError, RecursionError, AttributeError, LookupError, TypeError)
MOST_BYTES, MOST_VALUES, MOST_DIGITS = 4 << 20, 20_000, 400
_NULLS = ("null", "Null", "NULL", "~", "")


def read_yaml(path: Path, kind_of: Any) -> dict[str, Any]:
    """Return the values of a recipe file.

    Args:
        path: the file.
        kind_of: gives the class of settings for an objective, or None.

    Raises:
        ConfigError: in one line, if it cannot be read, is not a mapping in YAML, or unfolds to too many values.
    """
    text, shown = _read_text(path), one_line(path)
    try:
        values, node = _load(text)
    except ConfigError as error:
        raise ConfigError(f"{shown}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        reason = one_line(getattr(error, "problem", None) or error, 200)
        raise ConfigError(f"{shown}{where}: is not YAML: {reason}") from None
    except YAML_SLIPS as error:
        raise ConfigError(f"{shown}: is not YAML: {one_line(error, 200)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{shown}: a recipe is a mapping of settings, got {type(values).__name__}")
    typed: dict[str, Any] = _as_typed(values, node, kind_of(values.get("objective")))
    return typed


def apply_override(values: dict[str, Any], override: str, kind: Any) -> None:
    """Set the value that ``key.path=value`` gives; texts are taken as typed, everything else is YAML.

    Args:
        values: the tree of the recipe, which is changed.
        override: the argument of the command line.
        kind: class of settings of the tree, or None.

    Raises:
        ConfigError: for an override of another form, a value that is not YAML, or a key below a value.
    """
    key, equals, text = override.partition("=")
    shown = one_line(override, 100)
    if not equals or not key:
        raise ConfigError(f"override '{shown}' is not of the form key.path=value")
    *parents, leaf = key.split(".")
    value = _override_value(text, annotation_at(kind, (*parents, leaf)), shown)
    node = values
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override '{shown}': '{one_line(parent, 100)}' is a value, not a group of settings")
    node[leaf] = value


def annotation_at(kind: Any, keys: tuple[Any, ...]) -> Any:
    """Return the type of the setting that ``keys`` lead to from a class of settings; None if there is no such setting."""
    annotation = kind
    for key in keys:
        options = _options(annotation)
        group = next((option for option in options if isinstance(option, type) and issubclass(option, Settings)), None)
        if group is not None:
            fields = group.model_fields
            field = next((field for name, field in fields.items() if (field.alias or name) == key), None)
            annotation = field.annotation if field is not None else None
        else:
            mapping = next((option for option in options if get_origin(option) is dict), None)
            annotation = get_args(mapping)[1] if mapping is not None else None
    return annotation


def _read_text(path: Path) -> str:
    shown = one_line(path)
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ConfigError(f"{shown}: cannot be read: it is not a file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror or error}") from None
    if seems := describe_foreign(content[:4096]):
        raise ConfigError(f"{shown}: cannot be read: a recipe is YAML in UTF-8, this seems to be {seems}")
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{shown}: cannot be read: a recipe has at most {MOST_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        remedy = f"if it was written in cp1252, convert it: iconv -f CP1252 -t UTF-8 {shown} > new.yaml"
        raise ConfigError(f"{shown}:{line}: cannot be read: it is not UTF-8; {remedy}") from None


def _load(text: str) -> tuple[Any, Any]:
    """Return the values of a YAML text and its node.

    Raises:
        ConfigError: if it unfolds to too many values, refers to itself or holds an endless number.
        yaml.YAMLError: if it is not YAML; PyYAML raises YAML_SLIPS, too.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        if _unfolded(node, {}) > MOST_VALUES:
            raise ConfigError(f"its aliases unfold to more than {MOST_VALUES} values")
        return loader.construct_document(node), node
    finally:
        loader.dispose()


def _unfolded(node: Any, known: dict[int, int]) -> int:
    """Return the number of values below a node, each alias counted in full."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise ConfigError(f"line {node.start_mark.line + 1} refers to itself")
        return known[id(node)]
    known[id(node)] = -1
    count = 1
    if isinstance(node, yaml.MappingNode):
        count += sum(_unfolded(key, known) + _unfolded(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_unfolded(value, known) for value in node.value)
    elif node.tag.endswith(":int") and len(node.value) > MOST_DIGITS:
        raise ConfigError(f"line {node.start_mark.line + 1} holds a number of {len(node.value)} digits")
    known[id(node)] = count
    return count


def _override_value(text: str, annotation: Any, shown: str) -> Any:
    options = _options(annotation)
    if str in options and not text.startswith(("'", '"')):
        return None if text in _NULLS and type(None) in options else text
    try:
        value, node = _load(text)
    except ConfigError as error:
        raise ConfigError(f"override '{shown}': {error}") from None
    except (yaml.YAMLError, *YAML_SLIPS):
        if str in options:
            return text
        raise ConfigError(f"override '{shown}': the value is not YAML") from None
    return _as_typed(value, node, annotation)


def _as_typed(value: Any, node: Any, annotation: Any) -> Any:
    """Return ``value`` with the characters that were typed wherever a setting is a text: 001, 2024-11-30, no."""
    options = _options(annotation)
    if isinstance(node, yaml.ScalarNode):
        plain = isinstance(value, str) or (value is None and type(None) in options)
        return node.value if str in options and not plain else value
    if isinstance(value, dict) and isinstance(node, yaml.MappingNode):
        nodes = {key.value: inner for key, inner in node.value if isinstance(key, yaml.ScalarNode)}
        return {key: _as_typed(inner, nodes.get(key), annotation_at(annotation, (key,))) for key, inner in value.items()}
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode) and len(value) == len(node.value):
        sequence = next((option for option in options if get_origin(option) in (tuple, list)), None)
        kinds = [kind for kind in get_args(sequence) if kind is not Ellipsis] or [None]
        return [
            _as_typed(inner, each, kinds[min(i, len(kinds) - 1)])
            for i, (inner, each) in enumerate(zip(value, node.value, strict=True))
        ]
    return value


def _options(annotation: Any) -> list[Any]:
    """Return the types that a type allows: those of a union, without what annotates them."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for inner in get_args(annotation) for option in _options(inner)]
    return [annotation]
