"""The folder that `prepare` works in: whose it is, who works in it now, and what a killed process left behind.

``OUT/train.txt`` is the manifest of a split and ``OUT/train/`` the folder of its reports, videos and shards.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import av

from mvd_ds.data.manifests.manifest import EARLIER_MANIFEST, RECORD, list_at
from mvd_ds.data.prepare.encode import options_of
from mvd_ds.data.prepare.jobs import file_state
from mvd_ds.data.prepare.options import PrepareOptions
from mvd_ds.data.remote.folders import objects_below
from mvd_ds.data.remote.tars import are_shards
from mvd_ds.files import ConfigError, one_line, read_json, write_json

WORK = ".prepare"
_LOCK = "lock"
_INPUTS = "inputs.json"
_SPLITS = {"val": {"val", "valid", "validation", "dev"}, "test": {"test", "testing"}}
"""Words in the name of a source by the split that they mean."""
_ENCODER = "encoder"
"""What the record says of who encodes; one folder holds no videos of two."""
_HARMLESS = ("workers", "seconds_per_file")
"""Options that change nothing in the outcome."""
_LATER = ("videos", "classes")
"""Options that folders of earlier versions do not record."""


def split_of(source: Path | str) -> str:
    """Return the split that a list or folder is called after: ``val``, ``test``, or else ``train``."""
    words = set(re.split("[^a-z]+", PurePath(source).stem.lower()))
    return next((split for split, names in _SPLITS.items() if words & names), "train")


def manifest_in(output: Path, split: str) -> Path:
    """Return the manifest of a split in ``output``; of one that an earlier version prepared it is ``manifest.txt``."""
    return output / (EARLIER_MANIFEST if (output / RECORD).exists() else f"{split}.txt")


def folder_of(manifest: Path) -> Path:
    """Return the folder of the reports, videos and shards of a manifest."""
    return manifest.parent if manifest.name == EARLIER_MANIFEST else manifest.with_suffix("")


def is_prepared(manifest: Path) -> bool:
    """Return whether ``manifest`` is there, and with it everything that belongs to it.

    Raises:
        ConfigError: if somebody else has written it.
    """
    if manifest.exists() and not (folder_of(manifest) / RECORD).exists():
        raise ConfigError(f"{one_line(manifest)}: is there, and not from `prepare`; choose another folder, or --split NAME")
    return manifest.exists()


@contextmanager
def claimed(source: Path | str, output: Path, options: PrepareOptions, part: str = "") -> Iterator[None]:
    """Make ``output`` the folder of these settings, and keep every other `prepare` out of it until the block ends.

    With ``part``, the name of a part, other parts may work in it, too.

    Raises:
        ConfigError: if ``output`` holds other files or the results of other settings, is in the way of ``source``, or another
            process works in it.
        OSError: if the folder cannot be written.
    """
    _require_apart(source, output)
    work, record = output / WORK, output / RECORD
    if output.exists() and not work.is_dir() and not record.exists() and any(output.iterdir()):
        raise ConfigError(f"{one_line(output)}: the folder holds other files; choose a new or empty one")
    work.mkdir(parents=True, exist_ok=True)
    with open(work / _LOCK, "a+b") as lock:
        _lock(lock, output, shared=bool(part))
        require_settings(source, output, options)
        encoder = None if options.encoding is None else [f"PyAV {av.__version__}", *options_of(options.encoding)]
        if not record.exists():
            write_json(record, _settings(source, options) | {_ENCODER: encoder})
        elif read_json(record).get(_ENCODER) != encoder:
            raise ConfigError(
                f"{one_line(output)}: was begun by another version of mvd_ds or PyAV, which encodes otherwise; delete it, or "
                "finish it with that version"
            )
        if part:
            with open(work / f"{_LOCK}-{part}", "a+b") as own:
                _lock(own, output)
                yield
            return
        for leftover in output.rglob(".*.partial"):
            leftover.unlink(missing_ok=True)
        yield


def require_settings(source: Path | str, output: Path, options: PrepareOptions) -> None:
    """Refuse a folder that was begun from another source or with other options.

    Raises:
        ConfigError: naming the first difference.
    """
    record = output / RECORD
    if not record.exists():
        return
    held, settings = read_json(record), _settings(source, options)
    for name, value in settings.items():
        if not isinstance(held, dict) or held.get(name, value if name in _LATER else None) != value:
            before = held.get(name) if isinstance(held, dict) else held
            raise ConfigError(
                f"{one_line(output)}: was begun with {name} {one_line(before, 200)}, not {one_line(value, 200)}; "
                "choose another folder, or delete it"
            )


def digest_of(source: Path | str, videos: Path | str | None, classes: Path | str | None) -> str:
    """Return a digest of what is prepared: the list and class names by content, files of a folder by name, size and time.

    Raises:
        OSError: if one of them cannot be read.
        ConfigError: if its server does not give it.
    """
    digest = hashlib.sha256(repr(videos.resolve() if isinstance(videos, Path) else videos).encode())
    for path in (source, classes):
        if isinstance(path, str):
            digest.update(_state_of(path))
            continue
        if path is None or not path.is_dir():
            digest.update(path.read_bytes() if path is not None and path.is_file() else b"none")
            continue
        for place, folders, files in os.walk(path, followlinks=True):
            folders.sort()
            for file in sorted(files):
                known = (os.path.relpath(place, path), file, file_state(os.path.join(place, file)))
                digest.update(repr(known).encode())
    return digest.hexdigest()


def _state_of(address: str) -> bytes:
    """Return what tells a remote list or folder from what it was; of tar files, whose videos are marked themselves, nothing."""
    if are_shards(address):
        return b"none"
    if (text := list_at(address)) is not None:
        return text
    return repr([(name, *state) for name, state in objects_below(address)]).encode("utf-8", "surrogateescape")


def remember_inputs(output: Path, digest: str) -> None:
    """Keep the digest of what ``output`` was prepared from.

    Raises:
        OSError: if the disk refuses.
    """
    write_json(output / WORK / _INPUTS, {"digest": digest})


def require_inputs(output: Path, digest: str) -> None:
    """Refuse a folder that was prepared from another content of the same list or folder.

    Raises:
        ConfigError: saying so.
    """
    record = output / WORK / _INPUTS
    if record.exists() and read_json(record) != {"digest": digest}:
        raise ConfigError(
            f"{one_line(output)}: its videos, list or class names have changed since it was prepared; choose another folder, "
            "or delete it"
        )


def _require_apart(source: Path | str, output: Path) -> None:
    inside = source.resolve() if isinstance(source, Path) and source.is_dir() else None
    if inside is not None and (output.resolve().is_relative_to(inside) or inside.is_relative_to(output.resolve())):
        raise ConfigError(f"{one_line(output)}: lies in {one_line(source)}, or around it; choose a folder beside the originals")


def _settings(source: Path | str, options: PrepareOptions) -> dict[str, Any]:
    """Return the settings that decide the outcome, as JSON gives them back."""
    values = {
        "version": 1,
        "source": str(source.resolve() if isinstance(source, Path) else source.rstrip("/")),
        **options._asdict(),
    }
    for name in _HARMLESS:
        del values[name]
    settings: dict[str, Any] = json.loads(json.dumps(values))
    return settings


def _lock(file: Any, output: Path, shared: bool = False) -> None:
    """Lock ``file`` until it is closed; the kernel frees it if this process is killed."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read(100).decode(errors="replace").strip()
        raise ConfigError(
            f"{one_line(output)}: another `prepare` works in this folder ({one_line(owner)}); wait for it, or choose another "
            "folder"
        ) from None
    except OSError:  # a file system without locks
        return
    file.truncate(0)
    file.write(f"process {os.getpid()}\n".encode())
    file.flush()
