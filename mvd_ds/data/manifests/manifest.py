"""Lists of videos with their labels: a manifest file, or a folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.captions import TEXT_COLUMN
from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.existence import check_some_exist
from mvd_ds.data.manifests.folders import read_folder
from mvd_ds.data.manifests.json_lines import is_json_lines, tab_lines
from mvd_ds.data.manifests.numbering import require_one_spelling
from mvd_ds.data.manifests.parsing import parse_manifest
from mvd_ds.data.remote.addresses import folder_of, is_remote, joined
from mvd_ds.data.remote.clients import require_backend
from mvd_ds.data.remote.folders import require_listed
from mvd_ds.data.remote.store import FetchError, Store, is_missing
from mvd_ds.data.remote.tars import are_shards, manifest_of_shards
from mvd_ds.files import ConfigError, describe_foreign, one_line

RECORD, EARLIER_MANIFEST = "prepare.json", "manifest.txt"
"""The settings of a `prepare`, in the folder beside its manifest; earlier versions wrote both into one folder."""


class Manifest(NamedTuple):
    """A list of videos."""

    refs: ClipRefs
    label_names: tuple[str, ...]
    """One name a label; ``label`` or ``label_1, label_2, ...`` where the manifest does not name them."""
    class_names: dict[str, tuple[str, ...]]
    """Label name -> the names of its classes, label 0 first; only of labels for which the manifest names them."""
    name: str
    """Name of the file or folder, for messages."""
    source: str
    """Path of the file or folder that it was read from."""

    @property
    def labels(self) -> np.ndarray:
        """Labels int64 (n, L)."""
        return self.refs.labels

    @property
    def every_label(self) -> tuple[str, ...]:
        """Names of all labels, those among them that hold more than single classes, too."""
        return self.label_names if self.refs.written is None else self.refs.written.names

    def part(self, rows: np.ndarray) -> Manifest:
        """Return the videos of the lines ``rows``, int64 (k,)."""
        return self._replace(refs=self.refs.part(rows))


def read_manifest(path: str | Path, root: str | Path | None = None, setting: str = "data.manifest") -> Manifest:
    """Read the videos of a manifest file, or of a folder and everything below it (sorted).

    **A file.** A line is ``path label [label ...]``: labels are the numbers after the path's extension, or everything is
    separated by tabs. A label is a class, several of them (``3,7,12``, ``-`` for none) or a real number (``written_labels``).
    Headers: ``# labels: what how`` names the labels, ``# classes: ["abseiling", "air drumming"]`` the classes of the only
    label, ``# classes: {"what": [...], "how": [...]}`` those of several, both in JSON on one line, label 0 first; ``# root:
    FOLDER`` says what paths are relative to, if not the manifest; ``# columns: frames fps ...`` names what stands, separated
    by tabs, behind the labels (``prepare`` writes it). Of these, ``shard``, ``offset`` and ``bytes`` say where in which tar
    file the video is, and ``text`` is a caption, or several as a JSON list; the others are for people and scripts. A file of
    JSON lines (``json_lines``) says the same as ``{"path": ..., "label": ..., "text": ...}``. Other lines that begin with
    ``#`` are comments.

    **A folder.** The folder of a `prepare` is read by its manifest. In any other, where every video lies below one of several
    subfolders, these are the classes, in order of their names (of their numbers where all names are digits), and there is one
    label. Subfolders that are named as splits (train, val, ...), or files beside them, mean that there is none.

    Args:
        path: file or folder.
        root: folder that paths are relative to; None means what the manifest says, or else its own. A folder given as
            ``path`` is its own root.
        setting: name of the setting that names the manifest, for messages.

    Raises:
        ConfigError: manifest missing or empty, a line that cannot be read (with file:line), or videos that do not exist.
    """
    manifest = open_manifest(path, root, setting=setting)
    if not os.path.isdir(manifest.source):
        check_some_exist(manifest.refs, str(path))
    return manifest


def open_manifest(
    path: str | Path, root: str | Path | None = None, name: str | None = None, setting: str = "data.manifest"
) -> Manifest:
    """Read a manifest as ``read_manifest`` does, without a look at the videos.

    Args:
        path: file or folder.
        root: folder that paths are relative to; None: what the manifest says, or its own.
        name: name of the manifest in messages; None: that of the file.
        setting: name of the setting that names it, for messages.

    Raises:
        ConfigError: manifest missing or empty, or a line that cannot be read (with file:line).
    """
    if is_remote(str(path)) or are_shards(str(path)):
        return _read_elsewhere(str(path), root, name)
    source = Path(path).expanduser()
    if source.is_dir():
        prepared = prepared_in(source)
        if prepared is None:
            return _of_folder(str(source))
        source = prepared
    text = read_list(source, "a manifest", setting)
    return manifest_of(text, source, root, source.name if name is None else name, one_line(path) if name is None else name)


def prepared_in(folder: Path) -> Path | None:
    """Return the manifest that `prepare` has written for or into ``folder``, None if it has written none.

    Raises:
        ConfigError: if these are the manifests of several splits.
    """
    if (folder / RECORD).is_file():
        found = [folder / EARLIER_MANIFEST, folder.with_name(f"{folder.name}.txt")]
        return next((path for path in found if path.is_file()), None)
    splits = [record.parent.with_name(f"{record.parent.name}.txt") for record in sorted(folder.glob(f"*/{RECORD}"))]
    splits = [path for path in splits if path.is_file()]
    if len(splits) > 1:
        raise ConfigError(f"{one_line(folder)}: holds several manifests: give {' or '.join(map(one_line, splits))}")
    return splits[0] if splits else None


def _read_elsewhere(path: str, root: str | Path | None, name: str | None) -> Manifest:
    """Read a remote manifest, or tar files without one.

    Raises:
        ConfigError: if they cannot be fetched, or a line cannot be read.
    """
    called = without_secrets(path) if name is None else name
    if are_shards(path):
        manifest = manifest_of(manifest_of_shards(path), path, folder_of(path), called, one_line(called))
    elif (text := list_at(path)) is None:
        manifest = _of_folder(path)
    else:
        manifest = manifest_of(text, path, root, called, one_line(called))
    return manifest._replace(source=without_secrets(path))


def list_at(address: str) -> bytes | None:
    """Return the text of a remote list, or None if the address is that of a folder.

    Raises:
        ConfigError: if it is neither, or its server does not give it.
    """
    shown, store = one_line(without_secrets(address)), Store()
    if address.endswith("/"):
        require_listed(address)
        return None
    try:
        text = store.content(address)
    except FetchError as error:
        if is_missing(error) and store.is_folder(address):
            return None
        raise ConfigError(f"{shown}: {error}") from None
    seems = describe_foreign(text[:4096])
    if seems.startswith("a web page") and not os.path.splitext(address)[1]:  # of a file, it asks for a login, or says sorry
        require_listed(address)
    if seems:
        raise ConfigError(f"{shown}: is not a manifest, it seems to be {seems}")
    return text


def _of_folder(folder: str) -> Manifest:
    refs, classes = read_folder(folder)
    return Manifest(refs, tuple(classes), classes, folder, folder)


def manifest_of(text: bytes, source: str | Path, root: str | Path | None, name: str, shown: str) -> Manifest:
    """Return the videos that ``text`` lists, the content of the file ``source``.

    Args:
        text: lines of a manifest.
        source: the file or its address; it need not be there.
        root: folder that paths are relative to; None: what the text says, or the file's own.
        name: name of the manifest in places of videos.
        shown: name of the manifest in messages.

    Raises:
        ConfigError: if there is no video in it, or a line cannot be read (with file:line).
    """
    columns: tuple[str, ...] = ()
    if is_json_lines(text):
        text, columns = tab_lines(text, shown), (TEXT_COLUMN,)
    parsed = parse_manifest(text, shown, columns)
    for names in parsed.class_names.values():
        require_one_spelling(names, shown)
    folder = _root_of(source, parsed.root or "") if root is None else str(root)
    folder = folder if is_remote(folder) else str(Path(folder).expanduser())
    more = (parsed.shards, parsed.captions, parsed.written)
    refs = ClipRefs(text, parsed.spans, parsed.lines, parsed.labels, folder, name, *more)
    for start in refs.addresses():
        require_backend(start)
    return Manifest(refs, parsed.label_names, parsed.class_names, name, str(source))


def _root_of(source: str | Path, said: str) -> str:
    """Return what the paths of a manifest are relative to: its own folder, or what it says, which is relative to that."""
    if is_remote(said):
        return said
    around = folder_of(str(source)) if is_remote(str(source)) else os.path.dirname(source)
    return joined(around, said) if said else around or os.curdir


def read_list(source: Path | str, kind: str, setting: str | None = None) -> bytes:
    """Return the content of a text file that lists videos or classes; its encoding is not looked at, but for UTF-16.

    Args:
        source: the file, or its address.
        kind: "a manifest", for messages.
        setting: name of the setting that names the file, for messages.

    Raises:
        ConfigError: if it is missing, cannot be read, or is no text: then with what it seems to be.
    """
    shown = one_line(source)
    if isinstance(source, str):
        text = list_at(source)
        if text is None:
            raise ConfigError(f"{shown}: is a folder; {kind} is a text file")
        return text
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise ConfigError(f"{shown}: is neither a file nor a folder; {kind} is a text file")
        with open(source, "rb") as file:
            head = file.read(4096)
            seems = describe_foreign(head)
            if seems.startswith("text in UTF"):
                encoding = seems.removeprefix("text in ")
                raise ConfigError(f"{shown}: is {seems}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8 {shown} > utf8.txt")
            if seems:
                raise ConfigError(f"{shown}: is not {kind}, it seems to be {seems}")
            return head + file.read()
    except (FileNotFoundError, NotADirectoryError):
        where = f" ({setting})" if setting else ""
        places = (source.with_suffix("") / EARLIER_MANIFEST, source.with_name(EARLIER_MANIFEST))
        made = next((path for path in places if path.is_file()), None)
        hint = f"; `prepare` wrote {one_line(made)}: give that one" if made is not None else ""
        raise ConfigError(f"{shown}: no such manifest file or folder of videos{where}{hint}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{shown}: {kind} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def require_captions(manifest: Manifest, setting: str) -> None:
    """Refuse a manifest of which a video has no caption.

    Args:
        manifest: the videos.
        setting: the setting that asks for captions, for the message.

    Raises:
        ConfigError: naming the first such video.
    """
    refs = manifest.refs
    bare = next((index for index in range(len(refs)) if not refs.captions(index)), None)
    if bare is None:
        return
    if not refs.has_captions:
        remedy = (
            "put KEY.txt beside every KEY.mp4, a caption a line"
            if are_shards(str(manifest.source))
            else 'add \'# columns: text\' and a field behind a tab to every line, or write JSON lines {"path": ..., "text": ...}'
        )
        raise ConfigError(f"{one_line(manifest.source)}: has no captions, which {setting} needs; {remedy}")
    raise ConfigError(f"{refs[bare].where}: {one_line(refs.path(bare), 200)} has no caption, which {setting} needs")
