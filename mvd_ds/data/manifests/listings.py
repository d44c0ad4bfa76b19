"""Lists of labelled videos as data sets come: Kinetics' CSV, Something-Something's JSON, and what ``read_manifest`` reads."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS


class ListedVideo(NamedTuple):
    """One video of a list."""

    name: str
    """Relative to the root where it is below it."""
    location: str | ByteRange
    labels: tuple[int, ...]


class Listing(NamedTuple):
    """A list of videos."""

    entries: list[ListedVideo]
    root: str
    """Folder that names are relative to."""
    label_names: tuple[str, ...]
    class_names: dict[str, tuple[str, ...]]
    missing: list[str]
    """Named by the list, but not there."""


def read_listing(source: Path, videos: Path | None = None, classes: Path | None = None) -> Listing:
    """The videos of ``source``.

    Args:
        source: a folder, a manifest, Kinetics' CSV (``label,youtube_id,time_start,time_end,...``), a CSV of ``path,label``, or
            Something-Something's JSON (``[{"id": ..., "template": ...}, ...]``).
        videos: folder that holds the videos of a list; None: the list's own.
        classes: names of the classes, label 0 first: a JSON list, Something-Something's ``labels.json``, or a manifest with
            ``# classes:``, such as that of the training split. None: the sorted names that the list itself holds.

    Raises:
        ConfigError: for a list that cannot be read, or of which no video is there.
    """
    if source.is_dir() or source.suffix.lower() not in (".csv", ".json"):
        return _of_manifest(source, videos)
    rows = _read_json(source) if source.suffix.lower() == ".json" else _read_csv(source)
    names = _read_classes(classes) if classes is not None else _own_classes(source, [row[1] for row in rows])
    number = {name: index for index, name in enumerate(names)}
    folder = videos or source.parent
    entries, missing, found = [], [], _by_stem(folder)
    for stems, label in rows:
        if label not in number:
            raise ConfigError(f"{source}: class '{label}' is not one of the {len(names)} classes; check --classes")
        name = next((found[stem] for stem in stems if stem in found), None)
        if name is None:
            missing.append(stems[0])
        else:
            entries.append(ListedVideo(name, str(folder / name), (number[label],)))
    if not entries:
        raise ConfigError(f"{source}: none of its {len(rows)} videos is below {folder}; say --videos FOLDER")
    return Listing(entries, str(folder), ("label",), {"label": tuple(names)}, missing)


def _of_manifest(source: Path, videos: Path | None) -> Listing:
    manifest = read_manifest(source, videos)
    root = str(source if source.is_dir() else videos or source.parent)
    entries = []
    for index, ref in enumerate(manifest.refs):
        below = os.path.relpath(ref.path, root)
        entries.append(ListedVideo(ref.path if below.startswith("..") else below, manifest.refs.location(index), ref.labels))
    return Listing(entries, root, manifest.label_names, manifest.class_names, [])


def _read_csv(source: Path) -> list[tuple[tuple[str, ...], str]]:
    """(names that the file may have without extension, class) of each row."""
    with open(source, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        rows = [(f"{source}:{reader.line_num}", row) for row in reader if row]
    if not rows:
        raise ConfigError(f"{source}: the list is empty")
    head = [field.strip().lower() for field in rows[0][1]]
    if "youtube_id" in head and "label" in head:
        return [_kinetics_row(dict(zip(head, row, strict=False)), where) for where, row in rows[1:]]
    if head[:2] in (["path", "label"], ["video", "label"]):
        rows = rows[1:]
    for where, row in rows:
        if len(row) < 2:
            raise ConfigError(f"{where}: '{row[0][:80]}' is not 'path,label'")
    return [((_stem(row[0].strip()), _stem(os.path.basename(row[0].strip()))), row[1].strip()) for _, row in rows]


def _kinetics_row(row: dict[str, str], where: str) -> tuple[tuple[str, ...], str]:
    try:
        label, name = row["label"], row["youtube_id"]
        if not row.get("time_start"):
            return (name,), label
        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except (KeyError, ValueError):
        raise ConfigError(f"{where}: is not a line of label,youtube_id,time_start,time_end") from None
    return (f"{name}_{start:06d}_{end:06d}", f"{name}_{start}_{end}", name), label


def _read_json(source: Path) -> list[tuple[tuple[str, ...], str]]:
    rows = _load(source)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row and _template(row) for row in rows):
        raise ConfigError(f'{source}: is not a list of {{"id": ..., "template": ...}}')
    return [((str(row["id"]),), _template(row)) for row in rows]


def _template(row: dict[str, str]) -> str:
    """Something-Something names its classes without the brackets of its templates."""
    return str(row.get("template") or row.get("label") or "").replace("[", "").replace("]", "")


def _own_classes(source: Path, labels: Sequence[str]) -> list[str]:
    """``labels.json`` beside a JSON list, or else what the list names: numbers in their order, names in theirs."""
    beside = [source.with_name(name) for name in ("labels.json", "something-something-v2-labels.json")]
    if source.suffix.lower() == ".json":
        for path in beside:
            if path.exists() and path != source:
                return _read_classes(path)
    names = sorted(set(labels))
    if all(name.isdigit() for name in names):
        return [str(number) for number in range(max(map(int, names)) + 1)]
    return names


def _read_classes(path: Path) -> list[str]:
    if path.suffix.lower() != ".json":
        held = read_manifest(path).class_names
        if len(held) != 1:
            raise ConfigError(f"{path}: needs '# classes:' of one label to take class names from")
        return list(next(iter(held.values())))
    value = _load(path)
    if isinstance(value, dict):
        try:
            value = sorted(value, key=lambda name: int(value[name]))
        except (TypeError, ValueError):
            value = None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ConfigError(f'{path}: needs a list of class names, or {{"name": number, ...}}')
    return value


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _by_stem(folder: Path) -> dict[str, str]:
    """Path below ``folder`` of every video: by its path without extension, and by its name alone."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
                path = os.path.normpath(os.path.join(os.path.relpath(place, folder), file))
                found.setdefault(_stem(path), path)
                found.setdefault(_stem(file), path)
    return found


def _stem(path: str) -> str:
    """Without the extension, if it is one of a video: ids may hold dots."""
    stem, extension = os.path.splitext(path)
    return stem if extension.lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS else path
