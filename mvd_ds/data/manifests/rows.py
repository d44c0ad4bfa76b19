"""Readers of the rows of CSV and JSON lists: which file each row names, and which class."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.data.manifests.captions import TEXT_COLUMN, checked_captions, read_captions
from mvd_ds.data.manifests.json_lines import is_json_lines
from mvd_ds.data.manifests.manifest import read_list
from mvd_ds.data.manifests.parsing import read_line
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mvd_ds.files import ConfigError, describe_foreign, encoded, one_line

PATH_COLUMNS = ("path", "video", "file", "filename", "filepath", "videopath", "videofile", "videoname", "name", "clip", "image")
ID_COLUMNS = ("youtubeid", "ytid", "videoid", "id")
LABEL_COLUMNS = (
    "label", "class", "classname", "category", "action", "target", "labelname", "labels", "template", "activity",
    "labelid", "labelidx", "labelindex", "classid", "classidx", "classindex",
)  # fmt: skip
TEXT_COLUMNS = ("text", "caption", "captions")
OTHER_COLUMNS = (
    *("timestart", "timeend", "start", "end", "split", "subset", "iscc", "fps", "frames", "duration", "url"),
    *TEXT_COLUMNS,
)
_MANIFEST_HEADER = re.compile(rb"^# ?(labels|classes|columns|root):", re.MULTILINE)
_LOOKED_AT = 20


class ListRow(NamedTuple):
    """One row of a list."""

    where: str
    """Place in the list, ``train.csv:12``."""
    names: tuple[str, ...]
    """Names that the file may have, the likeliest first; with an extension or without."""
    label: str | None
    """Class, None in lists without."""
    is_json: bool = False
    """Whether the list is JSON."""
    captions: tuple[str, ...] = ()
    """Texts that say what the video shows."""


def read_rows(source: Path | str) -> list[ListRow] | None:
    """Return the rows of a CSV or JSON list, or None if ``source`` is a manifest; its content tells, not its name.

    Raises:
        ConfigError: for a list that cannot be read, or a row that is not understood, with file:line.
    """
    content = read_list(source, "a list of videos").removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in content[: 1 << 16].splitlines() if line.strip() and not line.startswith(b"#")][:_LOOKED_AT]
    if not lines:
        raise ConfigError(f"{one_line(source)}: the list is empty")
    if is_json_lines(content) or _is_of_manifest(lines[0]) or _MANIFEST_HEADER.search(content[: 1 << 16]):
        return None
    if content.lstrip()[:1] in (b"[", b"{") and not has_media_extension(os.fsdecode(lines[0].partition(b",")[0])):
        return _read_json_rows(source)
    delimiter = next((mark for mark in (b",", b";", b"\t") if all(mark in line for line in lines)), None)
    delimiter = delimiter or next((mark for mark in (b",", b";", b"\t") if mark in lines[0]), None)
    if delimiter is None or (delimiter == b"\t" and not isinstance(read_line(lines[0]), str)):
        return None
    return _read_csv_rows(source, content.decode("utf-8", "surrogateescape"), delimiter.decode())


def seems_json(path: Path | str) -> bool:
    """Return whether the content of a file begins as JSON does.

    Raises:
        ConfigError: if it cannot be read.
    """
    return read_list(path, "a list").removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def load_json(path: Path | str, objects: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        objects: makes an object of its keys and values, and raises ValueError for a bad one; None: a dict.

    Raises:
        ConfigError: in one line, if it is none.
    """
    content = read_list(path, "a JSON list").removeprefix(b"\xef\xbb\xbf")
    try:
        return json.loads(content.decode(), object_pairs_hook=objects)
    except (ValueError, RecursionError) as error:
        seems = describe_foreign(content[:4096])
        reason = f"is {seems}" if seems else f"cannot be read as JSON: {one_line(error, 100)}"
        raise ConfigError(f"{one_line(path)}: {reason}") from None


def has_media_extension(name: str) -> bool:
    """Return whether a name ends as videos or pictures do."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS


def _is_of_manifest(line: bytes) -> bool:
    read = read_line(line)
    return not isinstance(read, str) and has_media_extension(os.fsdecode(line[read[0] : read[1]]).rstrip())


def _read_csv_rows(source: Path | str, text: str, delimiter: str) -> list[ListRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[str, list[str]]] = []
    written: list[list[str]] = []
    shown = one_line(source)
    try:
        for row in reader:
            if row and not (len(row) == 1 and not row[0].strip()):
                if any("\n" in field and delimiter in field for field in row):
                    raise csv.Error("a field holds several rows; is a quotation mark not closed?")
                rows.append((f"{shown}:{reader.line_num}", [field.strip() for field in row]))
                written.append(row)
    except csv.Error as error:
        raise ConfigError(f"{shown}:{reader.line_num}: is not a row of a list: {one_line(error, 100)}") from None
    head = [_plain(field) for field in rows[0][1]]
    kinetics = any(name in head for name in ID_COLUMNS) and ("timestart" in head or "timeend" in head)
    path, label = (0, 0) if kinetics else _columns(head, rows[0])
    if path is None and not has_media_extension(rows[0][1][0]) and any(has_media_extension(row[0]) for _, row in rows):
        where, row = rows[0]
        raise ConfigError(f"{where}: '{one_line(','.join(row), 100)}' is neither a video nor a known header; write path,label")
    width = 2 if path is None else len(head)
    rows, written = (rows, written) if path is None else (rows[1:], written[1:])
    for where, row in rows:
        if len(row) > width:
            raise ConfigError(
                f"{where}: '{one_line(','.join(row), 80)}' has {len(row)} fields, not {width}; put names with a comma into "
                "quotes, and begin the list with a header such as path,label"
            )
    if path is not None:
        _require_one_split(head, rows)
    told = None if path is None else next((head.index(name) for name in TEXT_COLUMNS if name in head), None)
    if kinetics:
        found = [_kinetics_row(dict(zip(head, row, strict=False)), head, where) for where, row in rows]
    else:
        columns = path or 0, 1 if path is None else label
        found = [_path_row(row, raw, where, *columns) for (where, row), raw in zip(rows, written, strict=True)]
    texts = [_captions(row, told, where) for where, row in rows]
    return _alike([one._replace(captions=captions) for one, captions in zip(found, texts, strict=True)], shown)


def _captions(row: Sequence[str], column: int | None, where: str) -> tuple[str, ...]:
    """Return the captions of a row, as ``read_captions`` reads them; none without a column of them."""
    if column is None or len(row) <= column:
        return ()
    try:
        return read_captions(encoded(row[column]))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _require_one_split(head: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> None:
    """Refuse a list whose column ``split`` or ``subset`` names several parts, which would become one."""
    for column in {"split", "subset"} & set(head):
        place = head.index(column)
        values = {row[place]: where for where, row in rows if len(row) > place}
        if len(values) > 1:
            first, second = (one_line(value, 40) for value in list(values)[:2])
            where = list(values.values())[1]
            raise ConfigError(f"{where}: column {column} has '{first}' and '{second}'; write one list for each")


def _columns(head: Sequence[str], first: tuple[str, list[str]]) -> tuple[int | None, int | None]:
    """Return the columns of path and label, or (None, None) if the first row is a video and no header.

    Raises:
        ConfigError: for a header that is not understood.
    """
    path = next((head.index(name) for name in (*PATH_COLUMNS, *ID_COLUMNS) if name in head), None)
    label = next((head.index(name) for name in LABEL_COLUMNS if name in head), None)
    where, row = first
    if any(map(has_media_extension, row)):
        return None, None
    if path is not None and (label is not None or all(name in (*PATH_COLUMNS, *ID_COLUMNS, *OTHER_COLUMNS) for name in head)):
        return path, label
    known = {*PATH_COLUMNS, *ID_COLUMNS, *LABEL_COLUMNS, *OTHER_COLUMNS}
    if path is not None or label is not None or known & set(head):
        raise ConfigError(
            f"{where}: the header '{one_line(','.join(row), 100)}' is not understood; write path,label, or "
            "label,youtube_id,time_start,time_end"
        )
    if len(row) >= 2 and not any(character.isdigit() or character in "/._-" for character in row[0]):
        raise ConfigError(
            f"{where}: '{one_line(','.join(row), 100)}' is neither a video with its class nor a header that is known; "
            "write path,label"
        )
    return None, None


def _plain(field: str) -> str:
    """Return a column's name in small letters, without blanks and underscores."""
    return "".join(letter for letter in field.lower() if letter.isalnum())


def _path_row(row: Sequence[str], raw: Sequence[str], where: str, path: int, label: int | None) -> ListRow:
    """Return a row of path and class; a file whose name begins or ends with the blanks that were written comes first."""
    wanted = max(path, label or 0) + 1
    if len(row) < wanted or not row[path] or (label is not None and not row[label]):
        raise ConfigError(f"{where}: '{one_line(','.join(row), 80)}' is not 'path,label'")
    names = (raw[path], row[path]) if raw[path] != row[path] else (row[path],)
    return ListRow(where, names, None if label is None else row[label])


def _kinetics_row(row: dict[str, str], head: Sequence[str], where: str) -> ListRow:
    name = next((row.get(column, "") for column in ID_COLUMNS if column in head), "")
    column = next((column for column in LABEL_COLUMNS if column in head), None)
    label = None if column is None else row.get(column, "")
    times = [row.get(column, "") for column in ("timestart", "timeend")]
    try:
        numbers = [float(text) for text in times if text]
        if not name or label == "" or len(numbers) == 1 or not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{where}: is not a line of label,youtube_id,time_start,time_end") from None
    if not numbers:
        return ListRow(where, (name,), label)
    start, end = map(int, numbers)
    return ListRow(where, (f"{name}_{start:06d}_{end:06d}", f"{name}_{start}_{end}", name), label)


def _read_json_rows(source: Path | str) -> list[ListRow]:
    rows, shown = load_json(source), one_line(source)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f'{shown}: is not a list of {{"id": ..., "template": ...}}')
    return _alike([_json_row(row, f"{shown}: entry {number}") for number, row in enumerate(rows, 1)], shown)


def _json_row(row: dict[str, Any], where: str) -> ListRow:
    name = next((row[key] for key in ("id", "video_id", "path", "video") if key in row), None)
    label = row.get("template") or row.get("label")
    strange = isinstance(name, bool) or isinstance(label, bool)
    if strange or not isinstance(name, str | int) or not str(name) or not isinstance(label, str | int | None):
        raise ConfigError(f'{where}: is not a list of {{"id": ..., "template": ...}}: {one_line(repr(row)[:400], 80)}')
    if label is None and "label" in row and row["label"] is not None:
        raise ConfigError(f"{where}: its class is empty")
    # Something-Something names its classes without the brackets of its templates.
    plain = None if label is None else str(label).replace("[", "").replace("]", "")
    try:
        captions = checked_captions(row[TEXT_COLUMN]) if row.get(TEXT_COLUMN) else ()
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return ListRow(where, (str(name),), plain, is_json=True, captions=captions)


def _alike(rows: list[ListRow], shown: str) -> list[ListRow]:
    """Return the rows if all have a class, or none has.

    Raises:
        ConfigError: for an empty list, or the first row that differs.
    """
    if not rows:
        raise ConfigError(f"{shown}: the list is empty: it has a header and no rows")
    bare = [row for row in rows if row.label is None]
    if bare and len(bare) < len(rows):
        raise ConfigError(f"{bare[0].where}: has no class, but other rows have")
    return rows
