"""Lists of videos with their labels: a manifest file, or a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.video import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

#: Path up to its extension (which holds a letter), then integers. Paths may hold spaces, and dots.
_LINE = re.compile(rb"(?P<path>.*[^\s./]\.[0-9]*[A-Za-z][0-9A-Za-z]*)(?P<labels>(?:[ ]+-?[0-9]{1,18})*)")
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
_HEADER = re.compile(rb"#\s*labels:\s*(?P<names>.*)")
_LOOKED_AT = 32


class ClipRef(NamedTuple):
    """One line of a manifest."""

    path: str
    """Joined to the root."""
    labels: tuple[int, ...]
    where: str
    """``train.txt:12``, for messages."""


class ClipRefs(Sequence[ClipRef]):
    """The lines of a manifest, kept as bytes: 200,000 lines take about 20 MB, a ClipRef is made when asked for."""

    def __init__(
        self, text: bytes, spans: np.ndarray, lines: np.ndarray | None, labels: np.ndarray, root: str, name: str
    ) -> None:
        """Keep ``text`` and where each path begins and ends in it.

        Args:
            text: all paths.
            spans: int64 (n, 2), start and end of each path in ``text``.
            lines: int32 (n,), line numbers, or None for a folder.
            labels: int64 (n, L).
            root: folder the paths are relative to.
            name: of the manifest, for messages.
        """
        self._text, self._spans, self._lines, self._root, self._name = text, spans, lines, root, name
        self.labels = labels

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> ClipRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipRef]: ...
    def __getitem__(self, index: int | slice) -> ClipRef | list[ClipRef]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        path = self.path(index)
        where = f"{self._name}:{self._lines[index]}" if self._lines is not None else path
        return ClipRef(path, tuple(self.labels[index].tolist()), where)

    def path(self, index: int) -> str:
        """The path of line ``index``, joined to the root."""
        start, end = self._spans[index]
        return os.path.join(self._root, os.fsdecode(self._text[start:end]))


class Manifest(NamedTuple):
    """A list of videos."""

    refs: ClipRefs
    label_names: tuple[str, ...]
    """One name a label; ``label`` or ``label_1, label_2, ...`` where the manifest does not name them."""
    name: str

    @property
    def labels(self) -> np.ndarray:
        """int64 (n, L)."""
        return self.refs.labels


def read_manifest(path: str | Path, root: str | Path | None = None) -> Manifest:
    """The videos of a manifest file, or of a folder and everything below it (sorted, without labels).

    A line is ``path label [label ...]``: labels are the integers after the path's extension, or everything is separated
    by tabs. ``# labels: what how`` names the labels; other lines that begin with ``#`` are comments.

    Args:
        path: file or folder.
        root: folder that paths are relative to; None means the manifest's own. A folder given as ``path`` is its own root.

    Raises:
        ConfigError: manifest missing or empty, a line that cannot be read (with file:line), or videos that do not exist.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        return _read_folder(source)
    try:
        text = source.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such manifest file or folder of videos (data.manifest)") from None
    except OSError as error:
        raise ConfigError(f"{path}: the manifest cannot be read: {error.strerror}") from None
    folder = Path(root).expanduser() if root is not None else source.parent
    manifest = _parse(text, source.name, str(folder), str(path))
    _check_some_exist(manifest, str(path), str(folder))
    return manifest


def _parse(text: bytes, name: str, root: str, shown: str) -> Manifest:
    spans: list[tuple[int, int]] = []
    lines: list[int] = []
    labels: list[list[int]] = []
    names: tuple[str, ...] | None = None
    for number, start, line in _lines_of(text):
        if line.startswith(b"#"):
            header = _HEADER.fullmatch(line)
            names = tuple(header["names"].decode(errors="replace").split()) if header else names
            continue
        if not line.strip():
            continue
        parsed = _read_line(line)
        if isinstance(parsed, str):
            raise ConfigError(f"{shown}:{number}: {parsed}")
        begin, end, values = parsed
        if labels and len(values) != len(labels[0]):
            raise ConfigError(
                f"{shown}:{number}: {len(values)} labels, but {len(labels[0])} in line {lines[0]}; all lines need the same"
            )
        spans.append((start + begin, start + end))
        lines.append(number)
        labels.append(values)
    if not spans:
        raise ConfigError(f"{shown}: the manifest is empty; it needs a line 'path label ...' for every video")
    count = len(labels[0])
    if names is not None and len(names) != count:
        raise ConfigError(f"{shown}: '# labels:' names {len(names)} labels ({' '.join(names)}), but lines have {count}")
    if names is None:
        names = ("label",) if count == 1 else tuple(f"label_{i + 1}" for i in range(count))
    refs = ClipRefs(
        text, np.array(spans), np.array(lines, np.int32), np.array(labels, np.int64).reshape(len(spans), count), root, name
    )
    return Manifest(refs, names, name)


def _lines_of(text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), start and content of each line."""
    start = 3 if text.startswith(b"\xef\xbb\xbf") else 0
    for number, line in enumerate(text[start:].split(b"\n"), 1):
        yield number, start, line.rstrip(b"\r")
        start += len(line) + 1


def _read_line(line: bytes) -> tuple[int, int, list[int]] | str:
    """Start and end of the path in ``line`` and the labels; or what is wrong with the line."""
    indent = len(line) - len(line.lstrip(b" "))
    if b"\t" in line:
        path, *fields = (field.strip() for field in line.split(b"\t"))
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


def _check_some_exist(manifest: Manifest, shown: str, root: str) -> None:
    """Refuse a manifest of which nothing exists: the root is wrong then. Single missing files are replaced in training."""
    looked_at = manifest.refs[:_LOOKED_AT]
    if not any(os.path.exists(ref.path) for ref in looked_at):
        raise ConfigError(
            f"{shown}: none of the first {len(looked_at)} videos exists, for example {looked_at[0].path}; "
            f"paths are relative to {root}: set data.root to the folder that holds them"
        )


def _read_folder(folder: Path) -> Manifest:
    wanted = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS
    found: list[bytes] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(place, folder)
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in wanted:
                found.append(os.fsencode(os.path.normpath(os.path.join(relative, name))))
    if not found:
        raise ConfigError(f"{folder}: the folder holds no videos or images ({' '.join(sorted(wanted))})")
    found.sort()
    ends = np.cumsum([len(path) for path in found])
    starts = ends - np.array([len(path) for path in found])
    refs = ClipRefs(
        b"".join(found), np.stack([starts, ends], 1), None, np.zeros((len(found), 0), np.int64), str(folder), str(folder)
    )
    return Manifest(refs, (), str(folder))
