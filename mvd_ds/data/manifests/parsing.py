"""What the lines of a manifest file say."""

from __future__ import annotations

import io
import json
import os
import re
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mvd_ds.config import ConfigError

#: Path up to its extension (which holds a letter), then integers. Paths may hold spaces, and dots.
_LINE = re.compile(rb"(?P<path>.*[^\s./]\.[0-9]*[A-Za-z][0-9A-Za-z]*)(?P<labels>(?:[ ]+-?[0-9]{1,18})*)")
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
_HEADER = re.compile(rb"#\s*(?P<key>labels|classes|columns|root):\s*(?P<value>.*)")
_SHARD_COLUMNS = ("shard", "offset", "bytes")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ParsedLines(NamedTuple):
    """The videos of a manifest file."""

    spans: np.ndarray
    """int64 (n, 2), start and end of each path in the text."""
    lines: np.ndarray
    """int32 (n,), line numbers from 1."""
    labels: np.ndarray
    """int64 (n, L)."""
    label_names: tuple[str, ...]
    class_names: dict[str, tuple[str, ...]]
    root: str | None
    """Folder that paths are relative to, where the file says."""
    shards: ShardPlaces | None


class ShardPlaces(NamedTuple):
    """Where each video stands in the tar files that hold all of them."""

    names: tuple[str, ...]
    """Of the shards."""
    shard: np.ndarray
    """int32 (n,), index in ``names``."""
    offset: np.ndarray
    """int64 (n,), bytes before the video."""
    size: np.ndarray
    """int64 (n,), bytes of the video."""

    def part(self, rows: np.ndarray) -> ShardPlaces:
        """Return the places of the videos ``rows``, int64 (k,)."""
        return ShardPlaces(self.names, self.shard[rows], self.offset[rows], self.size[rows])


def parse_manifest(text: bytes, shown: str) -> ParsedLines:
    """The videos that ``text`` lists; ``shown`` names the file in messages.

    Raises:
        ConfigError: for a line or header that cannot be read, with file:line.
    """
    # Arrays of numbers, not lists of lists: 200,000 lines load in half the time and a tenth of the memory.
    spans, lines, labels = array("q"), array("l"), array("q")
    headers: dict[str, tuple[int, bytes]] = {}
    count = -1
    shards: _Shards | None = None
    columns = 0
    for number, start, line in _lines_of(text):
        if line.startswith(b"#"):
            header = _HEADER.fullmatch(line.strip())
            if header is not None:
                headers[header["key"].decode()] = (number, header["value"])
                if header["key"] == b"columns":
                    if lines:
                        raise ConfigError(f"{shown}:{number}: '# columns:' must stand before the first video")
                    names = header["value"].decode(errors="replace").split()
                    columns, shards = len(names), _Shards.of(names)
            continue
        if not line.strip():
            continue
        fields: list[bytes] = []
        if columns:
            line, *fields = line.rsplit(b"\t", columns)
            line += b"\t"  # what is left is separated by tabs, too, even if it is but the path
        if len(fields) != columns:
            raise ConfigError(f"{shown}:{number}: fewer fields than '# columns:' in line {headers['columns'][0]} names")
        parsed = _read_line(line)
        if shards is not None and not isinstance(parsed, str):
            parsed = shards.add(fields) or parsed
        if isinstance(parsed, str):
            raise ConfigError(f"{shown}:{number}: {parsed}")
        begin, end, values = parsed
        if count < 0:
            count = len(values)
        elif len(values) != count:
            raise ConfigError(f"{shown}:{number}: {len(values)} labels, but {count} in line {lines[0]}; all lines need the same")
        spans.extend((start + begin, start + end))
        lines.append(number)
        labels.extend(values)
    if not lines:
        raise ConfigError(f"{shown}: the manifest is empty; it needs a line 'path label ...' for every video")
    found = np.array(labels, np.int64).reshape(len(lines), count)
    names = _label_names(headers, count, shown)
    classes = _class_names(headers, names, found, shown)
    root = headers["root"][1].decode(errors="surrogateescape").strip() if "root" in headers else None
    places = np.array(spans, np.int64).reshape(-1, 2)
    held = shards.places() if shards is not None else None
    return ParsedLines(places, np.array(lines, np.int32), found, names, classes, root, held)


class _Shards:
    """Collects the columns ``shard``, ``offset`` and ``bytes``."""

    def __init__(self, shard: int, offset: int, size: int) -> None:
        """Keep the numbers of these columns."""
        self._columns = (shard, offset, size)
        self._numbers: dict[bytes, int] = {}
        self._shard, self._offset, self._size = array("l"), array("q"), array("q")

    @classmethod
    def of(cls, names: list[str]) -> _Shards | None:
        """None where the columns do not name shards."""
        return cls(*map(names.index, _SHARD_COLUMNS)) if set(_SHARD_COLUMNS) <= set(names) else None

    def add(self, fields: list[bytes]) -> str:
        """Take the fields of a line; what is wrong with them, or nothing."""
        name, offset, size = (fields[column].strip() for column in self._columns)
        if not name or not offset.isdigit() or not size.isdigit():
            shown = b" ".join((name, offset, size)).decode(errors="replace")
            return f"'{shown}' is not the name of a shard and two numbers of bytes"
        self._shard.append(self._numbers.setdefault(name, len(self._numbers)))
        self._offset.append(int(offset))
        self._size.append(int(size))
        return ""

    def places(self) -> ShardPlaces:
        """What was collected."""
        names = tuple(map(os.fsdecode, self._numbers))
        shard, offset, size = np.array(self._shard, np.int32), np.array(self._offset, np.int64), np.array(self._size, np.int64)
        return ShardPlaces(names, shard, offset, size)


def _lines_of(text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), start and content of each line."""
    start = len(_BYTE_ORDER_MARK) if text.startswith(_BYTE_ORDER_MARK) else 0
    file = io.BytesIO(text)
    file.seek(start)
    for number, line in enumerate(file, 1):
        yield number, start, line.rstrip(b"\r\n")
        start += len(line)


def _read_line(line: bytes) -> tuple[int, int, list[int]] | str:
    """Start and end of the path in ``line`` and the labels; or what is wrong with the line."""
    indent = len(line) - len(line.lstrip(b" "))
    if b"\t" in line:
        path, *fields = (field.strip() for field in line.removesuffix(b"\t").split(b"\t"))
        if not path:
            return "the path is missing before the first tab"
        for field in fields:
            if not _INTEGER.fullmatch(field):
                return f"label '{field.decode(errors='replace')}' is not an integer"
        return indent, indent + len(path), [int(field) for field in fields]
    match = _LINE.fullmatch(line.strip(b" "))
    if match is None:
        shown = line.strip().decode(errors="replace")
        return (
            f"'{shown[:80]}' is not 'path label ...': a path needs an extension (.mp4), and labels are integers "
            "separated by spaces, or everything is separated by tabs"
        )
    return indent + match.start("path"), indent + match.end("path"), [int(label) for label in match["labels"].split()]


def _label_names(headers: dict[str, tuple[int, bytes]], count: int, shown: str) -> tuple[str, ...]:
    if "labels" not in headers:
        return ("label",) if count == 1 else tuple(f"label_{i + 1}" for i in range(count))
    names = tuple(headers["labels"][1].decode(errors="replace").split())
    if len(names) != count:
        raise ConfigError(f"{shown}: '# labels:' names {len(names)} labels ({' '.join(names)}), but lines have {count}")
    return names


def _class_names(
    headers: dict[str, tuple[int, bytes]], label_names: tuple[str, ...], labels: np.ndarray, shown: str
) -> dict[str, tuple[str, ...]]:
    """Of each label that ``# classes:`` names them for; a list alone is that of the only label."""
    if "classes" not in headers:
        return {}
    number, value = headers["classes"]
    where = f"{shown}:{number}"
    try:
        written = json.loads(value)
    except ValueError:
        written = None
    if isinstance(written, list) and len(label_names) == 1:
        written = {label_names[0]: written}
    if not isinstance(written, dict) or not all(_is_list_of_names(names) for names in written.values()):
        raise ConfigError(
            f'{where}: \'# classes:\' needs JSON in one line: ["first class", ...], or {{"LABEL": [...]}} for several'
        )
    for name, names in written.items():
        if name not in label_names:
            raise ConfigError(f"{where}: '# classes:' names '{name}', but the labels are: {' '.join(label_names) or 'none'}")
        column = labels[:, label_names.index(name)]
        outside = np.flatnonzero((column < 0) | (column >= len(names)))
        if len(outside):
            raise ConfigError(
                f"{where}: '# classes:' names {len(names)} classes of '{name}' (0 to {len(names) - 1}), "
                f"but video {outside[0] + 1} is labelled {column[outside[0]]}"
            )
    return {name: tuple(names) for name, names in written.items()}


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)
