"""The manifests that `prepare` and fine-tuning write, and the proof that they read back as they were meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.captions import TEXT_COLUMN, caption_field
from mvd_ds.data.manifests.listings import Listing
from mvd_ds.data.manifests.manifest import Manifest, manifest_of
from mvd_ds.data.manifests.written_fields import written_labels
from mvd_ds.data.prepare.inspection import COLUMNS
from mvd_ds.data.prepare.options import Found
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.remote.addresses import absolute, is_remote, joined
from mvd_ds.files import ConfigError, encoded, one_line, write_bytes

Place = tuple[str, int, int]
"""Shard, offset and bytes of a video."""
SHARD_COLUMNS = ("shard", "offset", "bytes")
UNLISTABLE = "its name holds a tab or a line break"
"""Reason why a video is in no manifest."""


def is_listable(name: str) -> bool:
    """Return whether a manifest can hold a video of this name."""
    return not any(mark in name for mark in "\t\n")


class _Head(NamedTuple):
    """The headers of a manifest."""

    command: str
    """Command that writes it."""
    root: str | None
    label_names: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]
    columns: tuple[str, ...]


class _Line(NamedTuple):
    """A line of the manifest: the name to write, and where a reader must find the video."""

    name: str
    location: str | ByteRange
    labels: tuple[int | str, ...]
    fields: tuple[Any, ...]
    captions: tuple[str, ...] = ()


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
    root = None if made or places else absolute(listing.root)
    lines = [_line_of(one, path.parent, places, made, root) for one in found]
    columns = (*COLUMNS, *SHARD_COLUMNS) if places else COLUMNS
    if any(line.captions for line in lines):
        columns = (*columns, TEXT_COLUMN)
        lines = [line._replace(fields=(*line.fields, caption_field(line.captions))) for line in lines]
    write_bytes(path, _text_of(_Head("prepare", root, listing.label_names, listing.class_names, columns), lines, path))


def manifest_text(manifest: Manifest, labels: Sequence[int | str], label: str, classes: Sequence[str], path: Path) -> bytes:
    """Return the text of a manifest of videos where they are, by absolute paths or places in shards.

    Args:
        manifest: the videos.
        labels: class of each, or its label as it is written.
        label: name of the label.
        classes: names of its classes, class 0 first; empty where they have none.
        path: the file that the text is for.

    Raises:
        ConfigError: if a video would not be found again by it.
    """
    lines = []
    for index, number in enumerate(labels):
        name, location = os.path.abspath(manifest.refs.path(index)), manifest.refs.location(index)
        place: tuple[Any, ...] = ()
        if isinstance(location, ByteRange):
            shard = os.path.abspath(location.path)
            location, place = ByteRange(shard, location.offset, location.size, name), (shard, location.offset, location.size)
        lines.append(_Line(name, name if isinstance(location, str) else location, (number,), place))
    columns = SHARD_COLUMNS if lines and lines[0].fields else ()
    return _text_of(_Head("finetune", None, (label,), {label: tuple(classes)} if classes else {}, columns), lines, path)


def _line_of(one: Found, folder: Path, places: Mapping[str, Place], made: bool, root: str | None) -> _Line:
    name = one.entry.name
    if made:
        place = str(one.location)
        name = place if is_remote(place) else os.path.relpath(place, folder)
    base = str(folder) if root is None else root
    location: str | ByteRange = joined(base, name)
    fields = tuple(int(value) if isinstance(value, bool) else value for value in (one.facts[name] for name in COLUMNS))
    if places:
        if one.entry.name not in places:
            raise ConfigError(
                f"{one_line(without_secrets(one.entry.name))}: is a file, but other videos are in tar shards; add --shards"
            )
        shard, offset, size = places[one.entry.name]
        name = without_secrets(name)
        location = ByteRange(joined(base, shard), offset, size, joined(base, name))
        fields += (shard, offset, size)
    return _Line(name, location, one.entry.labels, fields, one.entry.captions)


def _text_of(head: _Head, lines: Sequence[_Line], path: Path) -> bytes:
    """Return the text of a manifest, which reads back as it is meant.

    Raises:
        ConfigError: naming the first video, label or class that does not.
    """
    text = [f"# written by: python -m mvd_ds {head.command}".encode()]
    if head.root is not None:
        text.append(b"# root: " + os.fsencode(joined(head.root, ".") if head.root != head.root.strip() else head.root))
    if head.label_names:
        text.append(b"# labels: " + os.fsencode(" ".join(head.label_names)))
    if head.class_names:
        text.append(b"# classes: " + _json(head.class_names))
    if head.columns:
        text.append(f"# columns: {' '.join(head.columns)}".encode())
    text += [
        b"\t".join((os.fsencode(_escaped(line.name)), *(encoded(str(field)) for field in (*line.labels, *line.fields))))
        for line in lines
    ]
    content = b"\n".join(text) + b"\n"
    _require_same(content, path, head, lines)
    return content


def _json(values: Any) -> bytes:
    """Return ``values`` as JSON in one line; escapes are used where a name is not UTF-8."""
    try:
        return json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(values).encode()


def _escaped(name: str) -> str:
    """Return the name as a manifest holds it: ``./`` before one that would be read as a comment or be stripped."""
    return f"./{name}" if name != name.lstrip() or name.startswith(("#", "./", "\ufeff")) else name


def _require_same(content: bytes, path: Path, head: _Head, lines: Sequence[_Line]) -> None:
    """Read the text and compare every line with what was meant.

    Raises:
        ConfigError: naming the first difference.
    """
    for line in lines:
        if not all(map(is_listable, (line.name, *map(str, line.fields)))):
            raise ConfigError(
                f"{one_line(path)}: no manifest can hold '{one_line(without_secrets(line.name), 200)}': {UNLISTABLE}; rename it"
            )
    manifest = manifest_of(content, path, None, path.name, path.name)
    if len(manifest.refs) != len(lines):
        raise ConfigError(f"{one_line(path)}: {len(lines)} videos were written, but {len(manifest.refs)} are read back")
    for index, line in enumerate(lines):
        labels = written_labels(manifest, index)
        if manifest.refs.location(index) != line.location or labels != tuple(map(str, line.labels)):
            shown, found = one_line(without_secrets(line.name), 200), one_line(manifest.refs.path(index), 200)
            raise ConfigError(
                f"{one_line(path)}: '{shown}' is read back as '{found}' with labels {' '.join(labels)}; rename the file"
            )
        if manifest.refs.captions(index) != line.captions:
            shown = one_line(without_secrets(line.name), 200)
            raise ConfigError(f"{one_line(path)}: '{shown}' is read back with other captions; mend its texts")
    if manifest.every_label != head.label_names or manifest.class_names != head.class_names:
        raise ConfigError(f"{one_line(path)}: names of labels or classes are not read back as they were written; rename them")
