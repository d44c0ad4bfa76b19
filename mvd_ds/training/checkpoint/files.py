"""Checkpoint folders on disk: written and digested in one pass, listed newest first, verified before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from mvd_ds.config import ConfigError
from mvd_ds.files import read_json, write_json

MANIFEST_NAME, LATEST_NAME = "manifest.json", "latest"
STEP_NAME = re.compile(r"step-(\d{8})")
AVERAGE_PREFIX = "ema_rank_"
#: The statistics of targets, which are the same on all ranks.
STATISTICS_NAME = "statistics.pt"
#: sha256 runs at 1.2 GiB/s on one core that has its instructions, faster than blake2b (0.8) and than most disks.
DIGEST = "sha256"
_CHUNK = 1 << 22


def step_name(step: int) -> str:
    """Return the name of the folder of a step."""
    return f"step-{step:08d}"


class _Digesting:
    """A file that digests what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.new(DIGEST), 0
        self.fault: OSError | None = None

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self.size += memoryview(content).nbytes
        try:
            return self.file.write(content)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_tensors(path: Path, content: Any) -> dict[str, Any]:
    """Save ``content`` to ``path`` by ``torch.save``; return its size and the digest of what was meant to be written.

    Raises:
        OSError: if the disk refuses.
    """
    with open(path, "wb") as file:
        digesting = _Digesting(file)
        try:
            torch.save(content, cast(IO[bytes], digesting))
        except RuntimeError:
            # torch goes on after a write that failed, and ends with a count of bytes that does not fit.
            raise digesting.fault or OSError("torch could not write it") from None
        file.flush()
        os.fsync(file.fileno())
    return {"size": digesting.size, DIGEST: digesting.digest.hexdigest()}


def sync_folder(path: Path) -> None:
    """Ask the system to put a folder's list of names on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints to try, best first: the one that ``latest`` names, then every older one.

    Without a readable ``latest`` (a crash between the first rename and it) all of them, newest first: what has its
    final name and a manifest that fits is whole.

    Raises:
        OSError: if the folder is there and cannot be read: a run must not begin again beside its checkpoints.
    """
    steps = _steps_in(folder)
    try:
        named = STEP_NAME.fullmatch((folder / LATEST_NAME).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        named = None
    newest = int(named[1]) if named else max(steps, default=0)
    if named:
        # Also where its folder is gone: that is said, not passed over.
        steps.setdefault(newest, folder / named[0])
    return [steps[step] for step in sorted(steps, reverse=True) if step <= newest]


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a checkpoint folder, with a digest of itself."""
    write_json(path / MANIFEST_NAME, {**manifest, DIGEST: _manifest_digest(manifest)})


def _manifest_digest(manifest: dict[str, Any]) -> str:
    """Return the digest of a manifest's values, in whatever order and spacing the file has them."""
    values = {key: value for key, value in manifest.items() if key != DIGEST}
    return hashlib.new(DIGEST, json.dumps(values, sort_keys=True).encode()).hexdigest()


def _steps_in(folder: Path) -> dict[int, Path]:
    names = os.listdir(folder) if folder.exists() else []
    return {int(match[1]): folder / name for name in names if (match := STEP_NAME.fullmatch(name))}


def read_checkpoint_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint folder.

    Raises:
        ConfigError: if there is none, or it is not as it was written.
    """
    file = path / MANIFEST_NAME
    manifest = read_json(file)
    if not isinstance(manifest, dict) or manifest.get(DIGEST) != _manifest_digest(manifest):
        raise ConfigError(f"{file}: its content is not what was written (another {DIGEST})")
    wanted = {"name": str, "step": int, "skipped": int, "layout": dict, "recipe": dict, "files": dict, "extra": dict}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise ConfigError(f"{file}: is damaged: {key} is not there or not as we write it")
    if manifest["name"] != path.name or manifest["name"] != step_name(manifest["step"]):
        raise ConfigError(f"{file}: is damaged: it is of {manifest['name']}, step {manifest['step']}")
    for name, entry in manifest["files"].items():
        whole = isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get(DIGEST), str)
        if not whole or name != Path(name).name or name in ("", ".", "..", MANIFEST_NAME):
            raise ConfigError(f"{file}: is damaged: files.{name} is not as we write it")
    return manifest


def verify(path: Path, files: dict[str, dict[str, Any]], names: Iterable[str], digests: bool = True) -> None:
    """Check that files are what was written.

    Args:
        path: the checkpoint folder.
        files: the manifest's.
        names: which of them.
        digests: read them and compare digests; else only sizes are compared.

    Raises:
        ConfigError: naming the first file that is missing, of another size, unreadable, or changed.
    """
    for name in names:
        file, entry = path / name, files[name]
        try:
            size = file.stat().st_size
            if size != entry["size"]:
                raise ConfigError(f"{file}: has {size} bytes, {entry['size']} were written")
            digest = digest_of(file) if digests else entry[DIGEST]
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
        if digest != entry[DIGEST]:
            raise ConfigError(f"{file}: its content is not what was written (another {DIGEST})")


def digest_of(file: Path) -> str:
    """Return the digest of a file's content."""
    digest = hashlib.new(DIGEST)
    with open(file, "rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def holds_average(manifest: dict[str, Any]) -> bool:
    """Return whether a checkpoint has the moving average of its weights."""
    return any(name.startswith(AVERAGE_PREFIX) for name in manifest["files"])


def to_prune(folder: Path, current: int, keep_last: int, keep_every: int | None) -> list[Path]:
    """Return the checkpoints to remove once that of step ``current`` is whole; newer ones are left alone."""
    steps = _steps_in(folder)
    past = sorted(step for step in steps if step <= current)
    return [steps[step] for step in past[:-keep_last] if not keep_every or step % keep_every]
