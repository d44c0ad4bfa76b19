"""The parser of the lines and headers of manifest files."""

from __future__ import annotations

import io
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.columns import CaptionSpans, ShardPlaces, Shards
from mvd_ds.data.manifests.written_labels import LABEL_LIKE, LabelColumns, WrittenLabels, is_class, label_fault
from mvd_ds.files import ConfigError, did_you_mean, one_line

#: Path up to its extension (which holds a letter), then labels. Paths may hold spaces, and dots; ``1.5e3`` is no path.
_LINE = re.compile(
    rb"(?P<path>(?:.* )?(?!" + LABEL_LIKE + rb"(?: |\Z))[^ ]*[^\s./]\.[0-9]*[A-Za-z][0-9A-Za-z]*)"
    rb"(?P<labels>(?:[ ]+" + LABEL_LIKE + rb")*)"
)
_HEADER = re.compile(rb"#\s*(?P<key>labels|classes|columns|root):\s*(?P<value>.*)")
_HEADER_KEYS = ("labels", "classes", "columns", "root")
_HEADER_LIKE = re.compile(rb"#\s*(?P<key>[a-z_ ]{3,12}):.*", re.IGNORECASE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ParsedLines(NamedTuple):
    """The videos of a manifest file."""

    spans: np.ndarray
    """int64 (n, 2), start and end of each path in the text."""
    lines: np.ndarray
    """int32 (n,), line numbers from 1."""
    labels: np.ndarray
    """int64 (n, L), columns of single classes alone."""
    label_names: tuple[str, ...]
    """Names of these columns."""
    class_names: dict[str, tuple[str, ...]]
    root: str | None
    """Folder that paths are relative to, where the file says."""
    shards: ShardPlaces | None
    captions: np.ndarray | None
    """int64 (n, 2), start and end of the captions of each video in the text; None without a column of them."""
    written: WrittenLabels | None
    """Where labels stand in the text, if a column holds more than single classes."""


def is_utf8(text: bytes) -> bool:
    """Return whether ``text`` is UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(path: str) -> str:
    """Return the end of a message about a list in another encoding, with the command that converts it."""
    return f"is not UTF-8; if it was written in cp1252, convert it: iconv -f CP1252 -t UTF-8 {path} > utf8.txt"


def class_numbers(names: Sequence[str]) -> list[int] | None:
    """Return the numbers that class names are, or None unless all are different numbers in digits."""
    if not names or not all(name.isascii() and name.isdigit() and len(name) <= 18 for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) else None


def parse_manifest(text: bytes, shown: str, columns: Sequence[str] = ()) -> ParsedLines:
    """Return the videos that ``text`` lists.

    Args:
        text: content of the file.
        shown: name of the file in messages.
        columns: names of the columns behind the labels, before a header of the text names others.

    Raises:
        ConfigError: for a line or header that cannot be read, with file:line.
    """
    # Arrays of numbers, not lists of lists: 200,000 lines load in half the time and a tenth of the memory.
    spans, lines, labels = array("q"), array("l"), LabelColumns()
    headers: dict[str, tuple[int, bytes]] = {}
    names = list(columns)
    shards, captions = Shards.of(names), CaptionSpans.of(names)
    for number, start, line in _lines_of(text):
        if line.startswith(b"#"):
            if _read_header(line, f"{shown}:{number}", number, headers, began=bool(lines)) == "columns":
                names = headers["columns"][1].decode(errors="replace").split()
                shards, captions = Shards.of(names), CaptionSpans.of(names)
            continue
        if not line.strip():
            continue
        fields: list[bytes] = []
        ends = start + len(line)
        if names:
            line, *fields = line.rsplit(b"\t", len(names))
            line += b"\t"  # what is left is separated by tabs, too, even if it is but the path
        if len(fields) != len(names):
            raise ConfigError(f"{shown}:{number}: fewer fields than '# columns:' in line {headers['columns'][0]} names")
        parsed = _read_line(line, exact=bool(names))
        if shards is not None and not isinstance(parsed, str):
            parsed = shards.add(fields) or parsed
        if captions is not None and not isinstance(parsed, str):
            parsed = captions.add(fields, ends) or parsed
        if isinstance(parsed, str):
            raise ConfigError(f"{shown}:{number}: {parsed}")
        begin, end, values, told = parsed
        if fault := labels.add(values, start + told[0], start + told[1], number):
            raise ConfigError(f"{shown}:{number}: {fault}")
        spans.extend((start + begin, start + end))
        lines.append(number)
    if not lines:
        raise ConfigError(f"{shown}: the manifest is empty; it needs a line 'path label ...' for every video")
    found, plain = labels.numbers(len(lines)), labels.plain()
    names_of_labels = _label_names(headers, labels.count, shown)
    classes = _class_names(headers, names_of_labels, found, plain, shown)
    root = os.fsdecode(headers["root"][1].strip()) if "root" in headers else None
    places = np.array(spans, np.int64).reshape(-1, 2)
    held = shards.places() if shards is not None else None
    texts = captions.spans() if captions is not None else None
    kept, written = tuple(names_of_labels[column] for column in plain), labels.written(names_of_labels)
    return ParsedLines(places, np.array(lines, np.int32), found[:, plain], kept, classes, root, held, texts, written)


def _read_header(line: bytes, where: str, number: int, headers: dict[str, tuple[int, bytes]], began: bool) -> str | None:
    """Take the header that ``line`` is into ``headers`` and return its key; None for a comment.

    Raises:
        ConfigError: for a header that is nearly one of ours, contradicts an earlier one, or stands too late.
    """
    header = _HEADER.fullmatch(line.strip())
    if header is None:
        like = _HEADER_LIKE.fullmatch(line)
        near = did_you_mean(like["key"].decode().strip().lower(), _HEADER_KEYS) if like is not None and not began else ""
        if near and like is not None:
            raise ConfigError(f"{where}: unknown header '{like['key'].decode()}:'; {near}")
        return None
    key, value = header["key"].decode(), header["value"]
    if key in headers and headers[key][1] != value:
        raise ConfigError(
            f"{where}: '# {key}:' differs from the one in line {headers[key][0]}; keep one of them, or mix the two lists "
            "as data.sources"
        )
    if key in headers:
        return None
    if key == "columns" and began:
        raise ConfigError(f"{where}: '# columns:' must stand before the first video")
    headers[key] = (number, value)
    return key


def _lines_of(text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 1), start and content of each line."""
    start = len(_BYTE_ORDER_MARK) if text.startswith(_BYTE_ORDER_MARK) else 0
    file = io.BytesIO(text)
    file.seek(start)
    for number, line in enumerate(file, 1):
        yield number, start, line.rstrip(b"\r\n")
        start += len(line)


def read_line(line: bytes) -> tuple[int, int, list[int]] | str:
    """Return start and end of the path in ``line`` and the labels, single classes, or the fault of the line."""
    found = _read_line(line, exact=False)
    if isinstance(found, str):
        return found
    odd = next((field for field in found[2] if not is_class(field)), None)
    return (*found[:2], [int(field) for field in found[2]]) if odd is None else f"label '{_shown(odd)}' is not an integer"


def _read_line(line: bytes, exact: bool) -> tuple[int, int, list[bytes], tuple[int, int]] | str:
    """Read a line: start and end of the path, the labels, and where these begin and end.

    ``exact``: the path is all that stands before the first tab, with its blanks, as `prepare` writes it.
    """
    if b"\t" in line:
        line = line.removesuffix(b"\t")
        path, *labels = line.split(b"\t")
        begin = 0 if exact else len(path) - len(path.lstrip())
        end = len(path) if exact else len(path.rstrip())
        if begin >= end:
            return "the path is missing before the first tab"
        labels, told = [field.strip() for field in labels], (min(len(path) + 1, len(line)), len(line))
    else:
        indent = len(line) - len(line.lstrip(b" "))
        match = _LINE.fullmatch(line.strip(b" "))
        if match is None:
            return _not_a_line(line)
        begin, end, labels = indent + match.start("path"), indent + match.end("path"), match["labels"].split()
        told = (indent + match.start("labels"), indent + match.end("labels"))
    if fault := next((fault for field in labels if not field.isdigit() and (fault := label_fault(field))), ""):
        return fault
    while line[begin:end].startswith(b"./"):  # protects a name that begins with a blank or a hash
        begin += 2
    if b"\0" in line[begin:end] or begin == end:
        return f"'{_shown(line)}' is not the name of a file"
    return begin, end, labels, told


def _not_a_line(line: bytes) -> str:
    """Return the fault of a line that is not a path with labels."""
    if b"," in line:
        return f"'{_shown(line)}' is not 'path label ...'; if this is a CSV list, `prepare` makes a manifest of it"
    return (
        f"'{_shown(line)}' is not 'path label ...': a path needs an extension (.mp4), and labels are numbers "
        "separated by spaces, or everything is separated by tabs"
    )


def _shown(text: bytes) -> str:
    return one_line(without_secrets(text[:4096].decode(errors="replace")), 80)


def _label_names(headers: dict[str, tuple[int, bytes]], count: int, shown: str) -> tuple[str, ...]:
    if "labels" not in headers:
        return ("label",) if count == 1 else tuple(f"label_{i + 1}" for i in range(count))
    names = tuple(os.fsdecode(name) for name in headers["labels"][1].split())
    if len(set(names)) < len(names):
        raise ConfigError(f"{shown}: '# labels:' names a label twice ({one_line(' '.join(names), 200)})")
    if len(names) != count:
        raise ConfigError(f"{shown}: '# labels:' names {len(names)} labels ({' '.join(names)}), but lines have {count}")
    return names


def _class_names(
    headers: dict[str, tuple[int, bytes]], label_names: tuple[str, ...], labels: np.ndarray, plain: list[int], shown: str
) -> dict[str, tuple[str, ...]]:
    """Return the class names of each label that ``# classes:`` names them for; a list alone is that of the only label."""
    if "classes" not in headers:
        return {}
    number, value = headers["classes"]
    where = f"{shown}:{number}"
    if not is_utf8(value):
        raise ConfigError(f"{where}: {not_utf8(shown)}")
    try:
        written = json.loads(value)
    except (ValueError, RecursionError):
        written = None
    if isinstance(written, list) and len(label_names) == 1:
        written = {label_names[0]: written}
    if not isinstance(written, dict) or not all(_is_list_of_names(names) for names in written.values()):
        raise ConfigError(
            f'{where}: \'# classes:\' needs JSON in one line: ["first class", ...], or {{"LABEL": [...]}} for several'
        )
    for name, names in written.items():
        if name not in label_names:
            raise ConfigError(
                f"{where}: '# classes:' names '{one_line(name, 100)}', but the labels are: {' '.join(label_names) or 'none'}"
            )
        twice = [str(each) for each, times in Counter[str](names).items() if times > 1]
        if twice:
            raise ConfigError(f"{where}: '# classes:' names the class '{one_line(twice[0], 100)}' of '{name}' twice")
        column = labels[:, label_names.index(name)]
        is_plain = label_names.index(name) in plain  # others are looked at when it is known what they mean
        outside = np.flatnonzero(is_plain & ((column < 0) | (column >= len(names))))
        if len(outside):
            raise ConfigError(
                f"{where}: '# classes:' names {len(names)} classes of '{name}' (0 to {len(names) - 1}), "
                f"but video {outside[0] + 1} is labelled {column[outside[0]]}"
            )
    return {name: tuple(names) for name, names in written.items()}


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)
