"""The contents of the files that a run depends on: digests decide whether two runs read the same, paths do not.

Every list of videos, every file or folder of weights and every DeepSpeed JSON of a recipe has a digest, by the setting that
names it. A finished run, a checkpoint and a folder of features keep theirs. Later contents at the same path are another
input; the same contents at another path are the same one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.config import ConfigError, Recipe, differences, dump, load_recipe
from mvd_ds.config.inputs import inputs_in, inputs_of
from mvd_ds.files import read_json, write_json
from mvd_ds.training.cluster import launched_rank
from mvd_ds.training.console import say
from mvd_ds.training.run_folder import RunFolder

#: Endings of the files of a model's folder that decide what it computes; pages, pictures and exports beside them do not.
MODEL_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".json", ".yaml")
#: Endings of files that are no videos and no images.
TEXTS = (".txt", ".csv", ".json", ".jsonl", ".yaml", ".log", ".md", ".html")
#: Settings that a model's folder records of the run that made it, and that change nothing of the model.
BOOKKEEPING = ("run", "engine", "batch")
#: Settings that change where a run lies and when it ends, not what it computes.
MAY_DIFFER = ("run.output: ", "run.stop_before_seconds: ", "run.accept_changed: ", "run.writers: ")
#: Digests of files from this size on are kept between attempts: sha256 runs at 1.2 GiB/s on one core.
KEPT_FROM_BYTES = 64 * 2**20

Contents = dict[str, str]
"""Digest of every input by the setting that names it; inputs that are not there are left out."""


class Comparison(NamedTuple):
    """The inputs of an earlier start of a run beside those of now."""

    recipe: dict[str, Any]
    """The earlier recipe, dumped, with the new path of every input that has moved."""
    moved: list[str]
    """Lines ``setting: old path -> new path, the same content``."""
    changed: list[str]
    """Settings whose input has other contents now."""


def contents_of(recipe: Recipe, cache: Path | None = None) -> Contents:
    """Return the digests of the inputs of ``recipe``.

    Args:
        recipe: any recipe.
        cache: JSON file of digests of large files, by path, size, times and inode; its folder need not exist.

    Raises:
        OSError: if an input is there and cannot be read.
    """
    digests = _Digests(cache)
    found = {
        setting: digests.of(path, of_model=setting.endswith(("weights", "codebook")))
        for setting, path in inputs_of(recipe).items()
    }
    digests.keep()
    return {setting: digest for setting, digest in found.items() if digest is not None}


def compare_contents(
    earlier_recipe: dict[str, Any], earlier: Mapping[str, str], recipe: Recipe, now: Mapping[str, str]
) -> Comparison:
    """Compare the inputs of an earlier start with those of now.

    Args:
        earlier_recipe: its recipe, as ``dump`` gives it.
        earlier: its contents; an input that is not among them, or not among those of now, is taken for the same.
        recipe: the recipe of now.
        now: the contents of now.
    """
    adjusted = json.loads(json.dumps(earlier_recipe))
    moved = []
    paths = dict(inputs_in(dump(recipe)))
    for setting, path in inputs_in(earlier_recipe):
        if path != paths.get(setting, path) and setting in earlier and earlier[setting] == now.get(setting):
            set_at(adjusted, setting, paths[setting])
            moved.append(f"{setting}: {path} -> {paths[setting]}, the same content")
    return Comparison(adjusted, moved, [key for key in sorted(earlier.keys() & now.keys()) if earlier[key] != now[key]])


def is_finished(
    folder: RunFolder, recipe: Recipe, product: str, read: Callable[[Recipe, Path | None], Contents] = contents_of
) -> bool:
    """Return whether a run of these settings on inputs of these contents has ended in ``folder`` and left ``product``.

    Settings of ``MAY_DIFFER`` do not matter. Where the settings are the same and the contents are not, rank 0 says which.

    Args:
        folder: the run's folder.
        recipe: the recipe of now.
        product: name of the file or folder that a finished run leaves.
        read: function that returns the contents of the inputs of a recipe, with a cache.

    Raises:
        ConfigError: if ``status.json`` is damaged, or an input cannot be read.
    """
    stored = folder.path / "recipe.yaml"
    if not all(path.exists() for path in (folder.status, folder.path / product, stored)):
        return False
    if read_json(folder.status).get("state") != "finished":
        return False
    try:
        before = dump(load_recipe(str(stored)))
    except ConfigError:  # of a version whose settings are not known any more
        return False
    recorded = read_json(folder.contents) if folder.contents.exists() else {}
    try:
        now = read(recipe, folder.digests)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror or error}") from None
    compared = compare_contents(before, recorded, recipe, now)
    if [line for line in differences(compared.recipe, dump(recipe)) if not line.startswith(MAY_DIFFER)]:
        return False
    if compared.changed and launched_rank() == 0:
        say(f"{folder.path} is finished, but {', '.join(compared.changed)} had other contents then")
    return not compared.changed


def set_at(values: Any, setting: str, value: object) -> None:
    """Set the leaf of the dumped recipe ``values`` that the dotted name ``setting`` stands for."""
    *parents, last = setting.split(".")
    for part in parents:
        values = values[int(part) if isinstance(values, list) else part]
    values[last] = value


class _Digests:
    """Digests of files and folders, those of large files kept in the JSON file ``cache``."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self.known: dict[str, Any] = {}
        self.used: dict[str, Any] = {}
        if cache is not None and cache.exists():
            try:
                read = read_json(cache)
            except ConfigError:  # it is made again
                read = None
            self.known = read if isinstance(read, dict) else {}

    def of(self, path: Path, of_model: bool) -> str | None:
        """Return the digest of a file or folder, None if there is none at ``path``.

        Of a model's folder the files that make the model are read. Of a folder of videos names and sizes are taken.
        """
        if path.is_file():
            return self._of_file(path)
        if not path.is_dir():
            return None
        if of_model:
            files = sorted(inner for inner in path.rglob("*") if inner.is_file() and not inner.name.startswith("."))
            kept = [inner for inner in files if inner.suffix in MODEL_FILES] or files
            lines = [f"{inner.relative_to(path).as_posix()} {self._of_file(inner)}" for inner in kept]
        else:
            lines = [f"{inner.relative_to(path).as_posix()} {inner.stat().st_size}" for inner in _videos_in(path)]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def keep(self) -> None:
        """Write the digests of large files to the cache; one that cannot be written costs time, nothing else."""
        if self.cache is None or self.used == self.known:
            return
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.cache, self.used)
        except OSError:
            pass

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        if status.st_size < KEPT_FROM_BYTES:
            return _digest(path)
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        name = str(path.absolute())
        entry = self.known.get(name)
        if not (isinstance(entry, list) and entry[:-1] == state and isinstance(entry[-1], str)):
            entry = [*state, _digest(path)]
        self.used[name] = entry
        return str(entry[-1])


def _videos_in(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder of videos, in order: no texts, and nothing that runs, which may lie there, write."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or Path(place, name, "recipe.yaml").exists()))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix not in TEXTS and path.is_file():
                yield path


def _digest(path: Path) -> str:
    """Return the sha256 of a file: of a JSON file's values but for bookkeeping, of a safetensors file's header likewise."""
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            return hashlib.sha256(json.dumps(_without_bookkeeping(values), sort_keys=True).encode()).hexdigest()
    with open(path, "rb") as file:
        if path.suffix == ".safetensors":
            size = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(size)) if size < path.stat().st_size else None
            except (ValueError, RecursionError):
                header = None
            if isinstance(header, dict):
                header["__metadata__"] = _described(header.get("__metadata__"))
                digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
                return hashlib.file_digest(file, lambda: digest).hexdigest()
            file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(metadata: Any) -> Any:
    """Return what a safetensors header describes: a model, without bookkeeping, or classes; None if it describes none."""
    if isinstance(metadata, dict) and "classes" in metadata and "config" not in metadata:
        return metadata
    try:
        values = json.loads(metadata["config"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return _without_bookkeeping(values) if isinstance(values, dict) else None


def _without_bookkeeping(values: dict[str, Any]) -> dict[str, Any]:
    recipes = ("recipe", "finetuned_by")
    return {
        key: {inner: kept for inner, kept in value.items() if inner not in BOOKKEEPING}
        if key in recipes and isinstance(value, dict)
        else value
        for key, value in values.items()
    }
