"""Manifests of JSON lines, ``{"path": ..., "label": ..., "text": ...}``, as the lines separated by tabs that the parser takes.

Every line of the file becomes one line, so that messages name the right one.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from mvd_ds.data.manifests.captions import TEXT_COLUMN, caption_field, checked_captions
from mvd_ds.files import ConfigError, did_you_mean, one_line

_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?(?:[^\S\n]*(?:#[^\n]*)?\n)*[ \t]*\{[ \t]*\"")
_KEYS = ("path", "label", TEXT_COLUMN)
_HEADERS = ("labels", "classes", "root")


def is_json_lines(text: bytes) -> bool:
    """Return whether the first line that is no comment begins as a JSON object with a key does."""
    return _BEGINS.match(text) is not None


def tab_lines(text: bytes, shown: str) -> bytes:
    """Return JSON lines as lines of a manifest with the one column ``text``.

    An object has ``path``, ``label`` (a class, a real number, or a list of labels, in which several classes are a list) and
    ``text`` (a caption, or a list of them), the last two if there are any. Objects with one key alone, before the first video,
    are the headers ``labels`` (a list), ``classes`` and ``root``.

    Args:
        text: content of the file.
        shown: name of the file in messages.

    Raises:
        ConfigError: for a line that is none of these, with file:line.
    """
    lines = []
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = line.strip()
        try:
            lines.append(line if not line or line.startswith(b"#") else _tab_line(line))
        except ValueError as error:
            raise ConfigError(f"{shown}:{number}: {error}") from None
    return b"\n".join(lines)


def _tab_line(line: bytes) -> bytes:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at its byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {one_line(error, 100)}") from None
    if not isinstance(row, dict):
        raise ValueError('is no object {"path": ..., "label": ..., "text": ...}')
    if len(row) == 1 and next(iter(row)) in _HEADERS:
        return _header(*next(iter(row.items())))
    odd = [key for key in row if key not in _KEYS]
    if odd:
        raise ValueError(f"key '{one_line(odd[0], 60)}' is not known; {did_you_mean(odd[0], _KEYS, f'keys are {_KEYS}')}")
    fields = [_path(row.get("path")), *_labels(row.get("label"))]
    captions = checked_captions(row[TEXT_COLUMN]) if row.get(TEXT_COLUMN) is not None else ()
    return b"\t".join([*fields, caption_field(captions).encode()])


def _header(key: str, value: Any) -> bytes:
    if key == "labels":
        value = " ".join(map(str, value)) if isinstance(value, list) else value
    shown = value if isinstance(value, str) and key != "classes" else json.dumps(value, ensure_ascii=False)
    return f"# {key}: {shown}".encode("utf-8", "surrogateescape")


def _path(path: Any) -> bytes:
    if not isinstance(path, str) or not path or any(mark in path for mark in "\t\n\0"):
        raise ValueError(f"path is {one_line(repr(path)[:400], 80)}, not the name of a file")
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"path '{one_line(path, 80)}' holds half of a character (a lone surrogate)") from None
    return b"./" + name if path != path.lstrip() or path.startswith(("#", "./", "\ufeff")) else name


def _labels(label: Any) -> list[bytes]:
    labels = [] if label is None else label if isinstance(label, list) else [label]
    return [",".join(map(_number, one)).encode() or b"-" if isinstance(one, list) else _number(one).encode() for one in labels]


def _number(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**18
    if not is_number:
        raise ValueError(f"label is {one_line(repr(value)[:400], 60)}, not a number, or a list of labels")
    return repr(value)
