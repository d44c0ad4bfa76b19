"""The search for the files that a list names: exact paths first, never a guess that could be another video."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mvd_ds.data.manifests.folders import walk_once
from mvd_ds.data.manifests.rows import ListRow, has_media_extension
from mvd_ds.data.remote.addresses import is_remote, joined, scheme_of
from mvd_ds.data.remote.clients import LISTED, require_backend
from mvd_ds.data.remote.folders import objects_below, require_listed
from mvd_ds.files import one_line


class ResolvedFiles(NamedTuple):
    """The files of a list's rows."""

    folder: str
    """Folder that names are relative to."""
    names: dict[int, str]
    """Path by row: relative to the folder if it is below it, or absolute."""
    missing: dict[str, str]
    """Rows without a file: name in the list and reason."""
    notes: list[str]
    """Lines that say which files were found under another name."""

    def location(self, index: int) -> str:
        """Return the path of the file of row ``index``."""
        return joined(self.folder, self.names[index])


class FilesBelow:
    """The videos and pictures below a folder, by every end of their paths, with and without extension."""

    def __init__(self, folder: Path | str) -> None:
        """Keep the folder or its address; it is searched when a row names a file that is not simply there."""
        self.folder = folder
        self._ends: dict[str, list[str]] | None = None
        self._objects: set[str] | None = None

    def resolve(self, rows: Sequence[ListRow]) -> ResolvedFiles:
        """Return the file of every row.

        A row names its file by an absolute path, by one relative to the folder, or by the end of a path below the folder that
        no other file has. Files found by less than the name in the list are told; one that two rows would share is none.
        """
        names: dict[int, str] = {}
        guessed: dict[int, str] = {}
        reasons: dict[int, str] = {}
        for index, row in enumerate(rows):
            exact = next((path for path in map(self._exact, row.names) if path is not None), None)
            if exact is not None:
                names[index] = exact
                continue
            found, reasons[index] = self._by_end(row)
            if found is not None:
                guessed[index] = found
        self._drop_shared(rows, names, guessed, reasons)
        missing = {rows[i].names[0]: reason for i, reason in reasons.items() if i not in guessed}
        notes = self._notes(rows, guessed)
        return ResolvedFiles(str(self.folder), names | guessed, missing, notes)

    def _exact(self, name: str) -> str | None:
        """Return the path of a file that is there under exactly this name."""
        if isinstance(self.folder, str):
            return self._exact_object(name, self.folder)
        try:
            path = os.path.normpath(os.path.join(self.folder, name))
            if "\0" in path or not has_media_extension(path) or not os.path.isfile(path):
                return None
        except ValueError:
            return None
        below = os.path.relpath(path, self.folder)
        return os.path.abspath(path) if below.split(os.sep)[0] == os.pardir else below

    def _exact_object(self, name: str, folder: str) -> str | None:
        """Return the name of an object that is there; of a web server, which lists none, one that may be there."""
        if is_remote(name):
            return name
        name = os.path.normpath(name)
        if scheme_of(folder) in LISTED:
            return name if name in self._listed(folder) else None
        if not has_media_extension(name):
            require_listed(folder)
        return name

    def _listed(self, folder: str) -> set[str]:
        if self._objects is None:
            require_backend(folder)
            self._objects = {name for name, _ in objects_below(folder) if has_media_extension(name)}
        return self._objects

    def _by_end(self, row: ListRow) -> tuple[str | None, str]:
        """Return the only file whose path ends as the row says, and otherwise the reason why there is none."""
        for name in row.names:
            parts = [part for part in os.path.normpath(name).split(os.sep) if part not in ("", os.curdir, os.pardir)]
            for start in range(len(parts)):
                end = os.sep.join(parts[start:])
                stem = os.path.splitext(end)[0] if has_media_extension(end) else end
                for key in (end, f"{stem}."):
                    files = self._index().get(key, [])
                    if len(files) == 1:
                        return files[0], ""
                    if files:
                        shown = ", ".join(one_line(file, 100) for file in files[:2])
                        return None, f"no such file; its name fits {len(files)} files: {shown}"
        return None, "no such file"

    def _index(self) -> dict[str, list[str]]:
        """Return the files by each end of their paths: ``b/c.mp4`` with extension, ``b/c.`` without."""
        if self._ends is None:
            self._ends = defaultdict(list)
            for path in sorted(self._listed(self.folder)) if isinstance(self.folder, str) else self._walked():
                parts = path.split(os.sep)
                for start in range(len(parts)):
                    end = os.sep.join(parts[start:])
                    self._ends[end].append(path)
                    self._ends[f"{os.path.splitext(end)[0]}."].append(path)
        return self._ends

    def _walked(self) -> Iterator[str]:
        """Yield the path of every video and picture below the folder."""
        for place, folders, files in walk_once(self.folder):
            folders.sort()
            for file in sorted(filter(has_media_extension, files)):
                yield os.path.normpath(os.path.join(place, file))

    def _drop_shared(
        self, rows: Sequence[ListRow], names: dict[int, str], guessed: dict[int, str], reasons: dict[int, str]
    ) -> None:
        """Take out guesses that lead two rows of different names to one file, or to a file that another row names."""
        owners = defaultdict(set)
        for index, path in (names | guessed).items():
            owners[path].add(rows[index].names[0])
        for index, path in list(guessed.items()):
            if len(owners[path]) > 1:
                other = min(name for name in owners[path] if name != rows[index].names[0])
                reasons[index] = f"no such file; {one_line(path, 200)} is already that of {one_line(other, 200)}"
                del guessed[index]

    def _notes(self, rows: Sequence[ListRow], guessed: dict[int, str]) -> list[str]:
        """Return a line on files of another extension, and one on files in other folders than the list says."""
        suffixes, folders = [], []
        for index, path in guessed.items():
            name = os.path.normpath(rows[index].names[0])
            if has_media_extension(name) and os.path.splitext(name)[1] != os.path.splitext(path)[1]:
                suffixes.append((name, path))
            elif os.sep in name and not path.endswith(name.lstrip(os.sep)):
                folders.append((name, path))
        told = []
        for found, words in ((suffixes, "with another extension"), (folders, "in another folder")):
            if found:
                name, path = found[0]
                shown = f"{one_line(name, 200)} is {one_line(path, 200)}"
                told.append(f"{len(found)} of the list's videos are there {words} than it says: {shown}")
        return told
