"""Folders of videos without a list: the files below them, here or in an object store, and the classes that folders are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.numbering import require_one_spelling
from mvd_ds.data.manifests.parsing import class_numbers
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS, VIDEO_EXTENSIONS
from mvd_ds.data.remote.addresses import is_remote
from mvd_ds.data.remote.clients import require_backend
from mvd_ds.data.remote.folders import objects_below
from mvd_ds.files import ConfigError, one_line

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
"""Folders of these names are parts of a data set, not classes."""


def read_folder(folder: str) -> tuple[ClipRefs, dict[str, tuple[str, ...]]]:
    """Return the videos and pictures below a folder, sorted, and the names of its classes, where its subfolders are classes.

    Raises:
        ConfigError: if there are none, or a remote folder cannot be listed.
    """
    if is_remote(folder):
        folder = folder.rstrip("/")
        require_backend(folder)
    wanted = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS
    found: list[bytes] = []
    skipped: list[str] = []
    for name in (name for name, _ in objects_below(folder)) if is_remote(folder) else _files_below(folder):
        extension = os.path.splitext(name)[1].lower()
        if extension in wanted:
            found.append(os.fsencode(name))
        elif extension in UNREAD_EXTENSIONS:
            skipped.append(name)
    passed_over = f"{len(skipped)} files of formats that are not read, such as {one_line(min(skipped))}" if skipped else ""
    if not found:
        holds = f"holds {passed_over}, and" if skipped else "holds"
        raise ConfigError(f"{one_line(folder)}: the folder {holds} no videos or images ({' '.join(sorted(wanted))})")
    if skipped:
        logging.getLogger("mvd_ds").warning("%s: skipped %s", one_line(folder), passed_over)
    found.sort()
    ends = np.cumsum([len(path) for path in found])
    starts = ends - np.array([len(path) for path in found])
    labels, classes = _classes_of(found)
    require_one_spelling(classes.get("label", ()), one_line(folder))
    return ClipRefs(b"".join(found), np.stack([starts, ends], 1), None, labels, folder, folder), classes


def walk_once(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder below ``folder``, itself among them, relative to it, with the names of its folders and of its files.

    Links are followed, but not in a circle. As with ``os.walk``, the list of folders may be changed in place.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        yield os.path.relpath(place, folder), folders, files


def _files_below(folder: str) -> Iterator[str]:
    """Yield the path below ``folder`` of every file that is not hidden."""
    for place, folders, files in walk_once(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.normpath(os.path.join(place, name)) for name in files if not name.startswith("."))


def _classes_of(paths: list[bytes]) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    """Return labels int64 (n, L) and class names of a tree with a folder per class; L = 0 for any other tree."""
    separator = os.fsencode(os.sep)
    tops = [path.partition(separator)[0] if separator in path else None for path in paths]
    names = sorted({top for top in tops if top is not None})
    numbers = class_numbers([os.fsdecode(name) for name in names])
    if numbers is not None:  # 2 stands before 10
        names = [name for _, name in sorted(zip(numbers, names, strict=True))]
    if None in tops or len(names) < 2 or all(os.fsdecode(name).lower() in _SPLITS for name in names):
        return np.zeros((len(paths), 0), np.int64), {}
    number = {name: index for index, name in enumerate(names)}
    labels = np.array([[number[top]] for top in tops if top is not None], np.int64)
    return labels, {"label": tuple(map(os.fsdecode, names))}
