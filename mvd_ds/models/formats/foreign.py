"""A reader of descriptions that others wrote: JSON objects of bounded size whose values are checked before they are used.

A ``config.json`` decides how much memory a network takes and how many blocks are built, so numbers have limits. Messages name
the file and the key, and show a value only cut to a few characters.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError
from mvd_ds.files import describe_foreign, one_line

#: Largest description that is read. The index of a model of 1e5 tensors has 10 MB.
LARGEST_BYTES = 64 * 2**20
#: Characters of a value that a message shows.
SHOWN = 40
#: Limits of the sizes of a network; the largest published ones are below a tenth of them.
LARGEST_WIDTH, LARGEST_DEPTH, LARGEST_SIDE, LARGEST_CLASSES = 65_536, 1_000, 16_384, 10_000_000


def require_file(path: Path) -> None:
    """Refuse what is no regular file: a FIFO or a device would be waited for without an end.

    Raises:
        ConfigError: naming the path.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{one_line(path)}: cannot be read: it is no regular file")


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ConfigError: if it cannot be read, is too large, or is something else.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from None
    if len(content) > LARGEST_BYTES:
        raise ConfigError(f"{one_line(path)}: is larger than {LARGEST_BYTES // 2**20} MiB, which is no description of a model")
    return parse_object(content, str(path))


def parse_object(content: bytes | str, origin: str) -> dict[str, Any]:
    """Return the object in JSON text.

    Raises:
        ConfigError: if it is something else.
    """
    origin = one_line(origin)
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        seems = describe_foreign(content[:4096]) if isinstance(content, bytes) else ""
        raise ConfigError(
            f"{origin}:{error.lineno}: is not JSON: {one_line((seems and f'it is {seems}') or error.msg, 100)}"
        ) from None
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, deep nesting, bytes that are no text.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error, 100)
        raise ConfigError(f"{origin}: is not JSON that can be read: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: is not a JSON object")
    return values


def whole(values: Mapping[str, Any], key: str, default: int, largest: int, origin: str, least: int = 1) -> int:
    """Return a whole number between ``least`` and ``largest``, or ``default`` where there is none.

    Raises:
        ConfigError: naming the file, the key, and the value cut short.
    """
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
        raise _wrong(origin, key, f"a whole number from {least} to {largest}", value)
    return value


def number(values: Mapping[str, Any], key: str, default: float, least: float, largest: float, origin: str) -> float:
    """Return a finite number between ``least`` and ``largest``, or ``default`` where there is none.

    Raises:
        ConfigError: naming the file, the key, and the value cut short.
    """
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= largest:
        raise _wrong(origin, key, f"a number from {least:g} to {largest:g}", value)
    return value


def flag(values: Mapping[str, Any], key: str, default: bool, origin: str) -> bool:
    """Return true or false, or ``default`` where there is neither.

    Raises:
        ConfigError: naming the file, the key, and the value cut short.
    """
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(origin, key, "true or false", value)
    return default if value is None else value


def side(values: Mapping[str, Any], key: str, default: int, origin: str) -> int:
    """Return the side of a square, given as a number or as a list of two equal ones.

    Raises:
        ConfigError: naming the file, the key, and the value cut short.
    """
    value = values.get(key)
    if isinstance(value, list):
        if not value or any(type(entry) is not int or entry != value[0] for entry in value):
            raise _wrong(origin, key, "the side of a square; only squares are built here", value)
        value = value[0]
    return whole({key: value}, key, default, LARGEST_SIDE, origin)


def colours(values: Mapping[str, Any], key: str, default: tuple[float, float, float], origin: str) -> tuple[float, float, float]:
    """Return three finite numbers, one for each colour, or ``default`` where there are none.

    Raises:
        ConfigError: naming the file, the key, and the value cut short.
    """
    value = values.get(key)
    if value is None:
        return default
    is_number = isinstance(value, list) and [isinstance(entry, int | float) and not isinstance(entry, bool) for entry in value]
    if is_number != [True] * 3 or not all(math.isfinite(entry) and abs(entry) < 1e6 for entry in value):
        raise _wrong(origin, key, "three numbers, one for each colour", value)
    return float(value[0]), float(value[1]), float(value[2])


def part(values: Mapping[str, Any], key: str, origin: str) -> dict[str, Any]:
    """Return an object inside of an object, empty where there is none.

    Raises:
        ConfigError: naming the file, the key, and the value cut short.
    """
    value = values.get(key)
    if value is not None and not isinstance(value, dict):
        raise _wrong(origin, key, "an object", value)
    return value or {}


def first_line(error: ValueError) -> str:
    """Return the faults of settings in one line."""
    faults: list[Any] = getattr(error, "errors", list)()
    text = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in faults) or str(error).splitlines()[0]
    return one_line(text, 300)


def _wrong(origin: str, key: str, wanted: str, value: object) -> ConfigError:
    shown = one_line(value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str), SHOWN)
    return ConfigError(f"{one_line(origin)}: {key}: it takes {wanted}, got {shown}")
