"""Lists of labelled videos as data sets come: CSV, JSON, manifests and folders, with the files that they name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mvd_ds.data.manifests.files_below import FilesBelow
from mvd_ds.data.manifests.labels import MOST_CLASSES, Classes, labels_of
from mvd_ds.data.manifests.manifest import list_at, open_manifest, read_manifest
from mvd_ds.data.manifests.numbering import require_one_spelling
from mvd_ds.data.manifests.parsing import class_numbers, is_utf8, not_utf8
from mvd_ds.data.manifests.rows import ListRow, has_media_extension, load_json, read_rows, seems_json
from mvd_ds.data.manifests.written_fields import refuse_written
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.remote.addresses import folder_of, is_remote, joined, name_below
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.data.remote.tars import are_shards
from mvd_ds.files import ConfigError, did_you_mean, one_line


class ListedVideo(NamedTuple):
    """One video of a list."""

    name: str
    """Path relative to the root if it is below it, or absolute."""
    location: str | ByteRange
    """The file."""
    labels: tuple[int, ...]
    """One number a label."""
    captions: tuple[str, ...] = ()
    """Texts that say what it shows."""


class Listing(NamedTuple):
    """A list of videos."""

    entries: list[ListedVideo]
    """The videos that are there."""
    root: str
    """Folder that names are relative to."""
    label_names: tuple[str, ...]
    """One name a label."""
    class_names: dict[str, tuple[str, ...]]
    """Names of the classes of each label, class 0 first."""
    missing: dict[str, str]
    """Videos that the list names and that are not there, with the reason."""
    notes: list[str]
    """Lines to tell: videos that were found under another name than the list's."""


def read_listing(source: Path | str, videos: Path | str | None = None, classes: Path | str | None = None) -> Listing:
    """Read the videos of ``source``, whose format its content tells.

    Args:
        source: path or address of a folder, a manifest, tar files of webdataset, Kinetics' CSV
            (``label,youtube_id,time_start,time_end,...``), a CSV of ``path,label``, or Something-Something's JSON
            (``[{"id": ..., "template": ...}, ...]``).
        videos: path or address of the folder that holds the videos of a list; None: the list's own.
        classes: names of the classes, label 0 first: a JSON list, Something-Something's ``labels.json``, or a manifest with
            ``# classes:``, such as that of the training split. None: the sorted names that the list itself holds.

    Raises:
        ConfigError: for a list that cannot be read, or of which no video is there.
    """
    rows = None if _is_folder(source) or are_shards(str(source)) else read_rows(source)
    if rows is None:
        return _of_manifest(source, videos, classes)
    labelled = rows[0].label is not None
    names = (_read_classes(classes) if classes is not None else _own_classes(source, rows)) if labelled else []
    require_one_spelling(names, one_line(source))
    number = _numbering(names, rows, source) if labelled else {}
    folder = videos or (source.parent if isinstance(source, Path) else folder_of(source))
    found = FilesBelow(folder).resolve(rows)
    entries = [
        ListedVideo(
            found.names[index], found.location(index), (number[row.label],) if row.label is not None else (), row.captions
        )
        for index, row in enumerate(rows)
        if index in found.names
    ]
    if not entries:
        _require_utf8(rows, source)
        where, reason = next(iter(found.missing.items()))
        raise ConfigError(
            f"{one_line(source)}: none of its {len(rows)} videos is below {one_line(folder)}, for example "
            f"{one_line(where, 200)}: {reason}; say --videos FOLDER"
        )
    if 0 not in found.names and rows[0].where.endswith(":1") and not has_media_extension(rows[0].names[0]):
        shown = one_line(",".join((rows[0].names[0], rows[0].label or "")), 100)
        raise ConfigError(f"{rows[0].where}: '{shown}' is neither a video nor a known header; write path,label")
    _require_one_class(entries, names, source)
    label_names: tuple[str, ...] = ("label",) if labelled else ()
    return Listing(entries, str(folder), label_names, {"label": tuple(names)} if labelled else {}, found.missing, found.notes)


def _is_folder(source: Path | str) -> bool:
    if isinstance(source, Path):
        return source.is_dir()
    return not are_shards(source) and list_at(source) is None


def _require_one_class(entries: Sequence[ListedVideo], names: Sequence[str], source: Path | str) -> None:
    """Refuse a list that gives a video two classes: nothing says which of them is right.

    Raises:
        ConfigError: naming the first such video.
    """
    first: dict[str, tuple[int, ...]] = {}
    twice = [entry for entry in entries if first.setdefault(entry.name, entry.labels) != entry.labels]
    if twice:
        name = twice[0].name
        both = " and ".join(f"'{one_line(names[labels[0]], 60)}'" for labels in (first[name], twice[0].labels))
        more = f", and {len(twice) - 1} others likewise" if len(twice) > 1 else ""
        raise ConfigError(
            f"{one_line(source)}: {one_line(name, 100)} is listed with two classes, {both}{more}; keep one row of each video"
        )


def _of_manifest(source: Path | str, videos: Path | str | None, classes: Path | str | None) -> Listing:
    manifest = read_manifest(source, videos)
    for label in manifest.refs.written.odd if manifest.refs.written is not None else ():
        refuse_written(manifest, label, one_line(source))
    names, labels = dict(manifest.class_names), [ref.labels for ref in manifest.refs]
    if classes is not None:
        if len(manifest.label_names) != 1:
            raise ConfigError(f"{one_line(source)}: has {len(manifest.label_names)} labels; --classes names those of one")
        label = manifest.label_names[0]
        names[label] = tuple(_read_classes(classes))
        numbers = labels_of(manifest, Classes(label, names[label], named=True, by_position=True), one_line(source))
        labels = [(number,) for number in numbers.tolist()]
    root = manifest.refs.root
    entries = []
    for index, ref in enumerate(manifest.refs):
        location = manifest.refs.location(index)
        name = _name_of(location if isinstance(location, str) else ref.path, root)
        entries.append(ListedVideo(name, location, labels[index], manifest.refs.captions(index)))
    return Listing(entries, root, manifest.label_names, names, {}, [])


def _name_of(path: str, root: str) -> str:
    """Return the path relative to ``root`` if it is below it, or all of it: of an address with its query, or none finds it."""
    if is_remote(path):
        return name_below(root, path)
    below = os.path.relpath(path, root)
    return os.path.abspath(path) if below.split(os.sep)[0] == os.pardir else below


def _own_classes(source: Path | str, rows: Sequence[ListRow]) -> list[str]:
    """Return the classes of ``labels.json`` beside a JSON list, or else those that the list names.

    Raises:
        ConfigError: for a label that is neither a class number where the others are, nor a name.
    """
    if rows[0].is_json:
        for name in ("labels.json", "something-something-v2-labels.json"):
            beside = source.with_name(name) if isinstance(source, Path) else joined(folder_of(source), name)
            if beside != source and _is_there(beside):
                return _read_classes(beside)
    numeric = [row for row in rows if row.label is not None and _is_number(row.label)]
    if not numeric:
        return sorted({row.label for row in rows if row.label is not None})
    if len(numeric) < len(rows):
        named = next(row for row in rows if row.label is not None and not _is_number(row.label))
        odd, other = (named, numeric[0]) if len(numeric) * 2 > len(rows) else (numeric[0], named)
        raise ConfigError(
            f"{odd.where}: label '{one_line(odd.label, 80)}' is not like the others, such as '{one_line(other.label, 80)}': "
            "classes are numbers, or all of them names"
        )
    largest = 0
    for row in numeric:
        label = row.label or ""
        if not (label.isascii() and label.isdigit()) or len(label.lstrip("0")) > 9 or int(label) >= MOST_CLASSES:
            raise ConfigError(
                f"{row.where}: label '{one_line(label, 40)}' is no class number; classes are 0, 1, ... up to {MOST_CLASSES - 1}"
            )
        largest = max(largest, int(label))
    return [str(number) for number in range(largest + 1)]


def _is_there(place: Path | str) -> bool:
    try:
        return place.exists() if isinstance(place, Path) else Store().is_there(place)
    except FetchError as error:
        raise ConfigError(f"{one_line(place)}: {error}") from None


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return label.lower().lstrip("+-") not in ("nan", "inf", "infinity")


def _numbering(names: Sequence[str], rows: Sequence[ListRow], source: Path | str) -> dict[str | None, int]:
    """Return the number of every label of the rows: by name, or by value where classes are digits.

    Raises:
        ConfigError: for a label that is none of the classes.
    """
    number: dict[str | None, int] = {name: index for index, name in enumerate(names)}
    values = class_numbers(names)
    by_value = {value: index for index, value in enumerate(values)} if values is not None else {}
    for row in rows:
        label = row.label or ""
        if label in number:
            continue
        if by_value and label.isascii() and label.isdigit() and len(label) <= 18 and int(label) in by_value:
            number[label] = by_value[int(label)]
            continue
        if not is_utf8(os.fsencode(label)):
            raise ConfigError(f"{row.where}: {not_utf8(one_line(source))}")
        hint = did_you_mean(label, names, "check --classes")
        raise ConfigError(f"{row.where}: class '{one_line(label, 100)}' is not one of the {len(names)} classes; {hint}")
    for name in names:
        if not is_utf8(os.fsencode(name)):
            raise ConfigError(f"{one_line(source)}: class '{one_line(name, 100)}': {not_utf8(one_line(source))}")
    return number


def _require_utf8(rows: Sequence[ListRow], source: Path | str) -> None:
    """Say that a list is in another encoding where a name shows it, which explains that no file is found."""
    for row in rows:
        if not is_utf8(os.fsencode(row.names[0])):
            raise ConfigError(f"{row.where}: {not_utf8(one_line(source))}")


def _read_classes(path: Path | str) -> list[str]:
    """Read class names, class 0 first.

    Raises:
        ConfigError: if there are none, a name stands twice, or numbers are not 0, 1, ... without gaps.
    """
    if not seems_json(path):
        held = open_manifest(path).class_names
        if len(held) != 1:
            raise ConfigError(f"{one_line(path)}: needs '# classes:' of one label to take class names from")
        return list(next(iter(held.values())))
    value = load_json(path)
    if isinstance(value, dict):
        numbers = class_numbers([str(number) for number in value.values()])
        if numbers is None or sorted(numbers) != list(range(len(numbers))):
            raise ConfigError(f'{one_line(path)}: {{"name": number, ...}} needs the numbers 0 to {len(value) - 1}, each once')
        value = [name for _, name in sorted(zip(numbers, value, strict=True))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ConfigError(f'{one_line(path)}: needs a list of class names, or {{"name": number, ...}}')
    if len(set(value)) < len(value):
        twice = next(name for name in value if value.count(name) > 1)
        raise ConfigError(f"{one_line(path)}: names the class '{one_line(twice, 100)}' twice")
    return value
