"""The manifest that `prepare` writes, and the proof that it reads back as it was meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.data.manifests.listings import Listing
from mvd_ds.data.manifests.manifest import open_manifest
from mvd_ds.data.prepare.inspection import COLUMNS
from mvd_ds.data.prepare.options import Found
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.files import ConfigError, one_line, written_aside

Place = tuple[str, int, int]
"""Shard, offset and bytes of a video."""


class _Line(NamedTuple):
    """A line of the manifest: the name to write, and where a reader must find the video."""

    name: str
    location: str | ByteRange
    labels: tuple[int, ...]
    fields: tuple[Any, ...]


def write_manifest(
    path: Path, listing: Listing, found: Sequence[Found], places: Mapping[str, Place], root: str | None = None
) -> None:
    """Write the manifest of the good videos; it is read back and compared before it gets its name.

    Args:
        path: the manifest, in the folder of `prepare`.
        listing: the list that the videos come from: root, names of labels and classes.
        found: the good videos.
        places: where each video is in tar shards, by its name in the list; empty: each is a file.

    Raises:
        ConfigError: if a video would not be found again under its own name, with its labels and classes.
        OSError: if the disk refuses.
    """
    made = any(one.location != one.entry.location for one in found) and not places
    root = None if made or places else os.path.abspath(listing.root)
    lines = [_line_of(one, path.parent, places, made, root) for one in found]
    with written_aside(path) as aside:
        aside.write_bytes(_text_of(listing, lines, root, bool(places)))
        _require_same(aside, path, listing, lines)


def _line_of(one: Found, folder: Path, places: Mapping[str, Place], made: bool, root: str | None) -> _Line:
    name = os.path.relpath(str(one.location), folder) if made else one.entry.name
    base = str(folder) if root is None else root
    location: str | ByteRange = os.path.join(base, name)
    fields = tuple(int(value) if isinstance(value, bool) else value for value in (one.facts[name] for name in COLUMNS))
    if places:
        if one.entry.name not in places:
            raise ConfigError(f"{one_line(one.entry.name)}: is a file, but other videos are in tar shards; add --shards")
        shard, offset, size = places[one.entry.name]
        location = ByteRange(os.path.join(base, shard), offset, size, os.path.join(base, name))
        fields += (shard, offset, size)
    return _Line(name, location, one.entry.labels, fields)


def _text_of(listing: Listing, lines: Sequence[_Line], root: str | None, sharded: bool) -> bytes:
    columns = (*COLUMNS, "shard", "offset", "bytes") if sharded else COLUMNS
    head = [b"# written by: python -m mvd_ds prepare"]
    if root is not None:
        head.append(b"# root: " + os.fsencode(os.path.join(root, ".") if root != root.strip() else root))
    if listing.label_names:
        head.append(b"# labels: " + os.fsencode(" ".join(listing.label_names)))
    if listing.class_names:
        head.append(b"# classes: " + _json(listing.class_names))
    head.append(f"# columns: {' '.join(columns)}".encode())
    body = [os.fsencode("\t".join((_escaped(line.name), *map(str, (*line.labels, *line.fields))))) for line in lines]
    return b"\n".join([*head, *body]) + b"\n"


def _json(values: Any) -> bytes:
    """Return ``values`` as JSON in one line; escapes are used where a name is not UTF-8."""
    try:
        return json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(values).encode()


def _escaped(name: str) -> str:
    """Return the name as a manifest holds it: ``./`` before one that would be read as a comment or be stripped."""
    return f"./{name}" if name != name.lstrip() or name.startswith(("#", "./", "\ufeff")) else name


def _require_same(aside: Path, path: Path, listing: Listing, lines: Sequence[_Line]) -> None:
    """Read the manifest and compare every line with what was meant.

    Raises:
        ConfigError: naming the first difference.
    """
    manifest = open_manifest(aside, None, path.name)
    if len(manifest.refs) != len(lines):
        raise ConfigError(f"{one_line(path)}: {len(lines)} videos were written, but {len(manifest.refs)} are read back")
    for index, line in enumerate(lines):
        if manifest.refs.location(index) != line.location or manifest.refs[index].labels != line.labels:
            raise ConfigError(
                f"{one_line(path)}: '{one_line(line.name, 200)}' is read back as '{one_line(manifest.refs.path(index), 200)}'"
                f" with labels {manifest.refs[index].labels}; rename the file"
            )
    if manifest.label_names != listing.label_names or manifest.class_names != listing.class_names:
        raise ConfigError(f"{one_line(path)}: names of labels or classes are not read back as they were written; rename them")
