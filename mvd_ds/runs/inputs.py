"""The contents of a run's inputs, with the sizes of the videos in its lists: one replaced under its name is another input.

A folder of videos has a digest of its names and sizes already (``training.contents``); one that `prepare` wrote stands for its
list. Times of files are not looked at, since a copy changes them; a video that is replaced by one of exactly the same number of
bytes is not noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError, Recipe, TrainingRecipe, dump
from mvd_ds.config.inputs import inputs_in, inputs_of, is_of_elsewhere
from mvd_ds.data.cached.index import INDEX
from mvd_ds.data.manifests.captions import caption_field
from mvd_ds.data.manifests.clip_refs import ClipRefs
from mvd_ds.data.manifests.manifest import open_manifest, prepared_in
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.remote.addresses import is_remote
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.files import encoded
from mvd_ds.training.contents import Contents, contents_of

CACHE = "targets.cache"
"""Name under which a cache of targets has its digest."""
VIDEOS = "videos"
"""Last part of the name under which a list's videos have their digest: ``data.manifest.videos``."""
MOST_FILES = 100_000
"""Files of a list that are looked at; in a longer list they are evenly spaced."""
MOST_OBJECTS = 256
"""Remote objects of a list that are looked at, evenly spaced: each takes a request."""
_THREADS = 32
"""Files that are asked for at the same time: a network file system takes up to a millisecond for each."""


def contents_with_videos(recipe: Recipe, cache: Path | None = None) -> Contents:
    """Return the digests of ``contents_of``, one of the sizes of the videos of every list, and one of cached targets.

    Args:
        recipe: any recipe.
        cache: as of ``contents_of``.

    Raises:
        OSError: if an input is there and cannot be read.
    """
    return contents_of(recipe, cache) | dict(_of_lists(recipe)) | _of_cache(recipe)


def _of_cache(recipe: Recipe) -> Contents:
    """Return the digest of the index of the cache that a recipe takes its targets from, which states what it was made of."""
    folder = recipe.targets.cache if isinstance(recipe, TrainingRecipe) else None
    index = None if folder is None else Path(folder) / INDEX
    return {CACHE: hashlib.sha256(index.read_bytes()).hexdigest()} if index is not None and index.is_file() else {}


def _of_lists(recipe: Recipe) -> Iterator[tuple[str, str]]:
    values = dump(recipe)
    if values["data"]["sources"]:
        del values["data"]["manifest"]
    paths = {setting: str(path) for setting, path in inputs_of(recipe).items() if path.exists()}
    elsewhere = {setting: value for setting, value in inputs_in(values) if is_of_elsewhere(setting, value)}
    for setting, path in {**paths, **elsewhere}.items():
        if setting.endswith("manifest"):
            try:
                if Path(path).is_dir() and prepared_in(Path(path)) is None:
                    continue
                refs = open_manifest(path, _root_of(values, setting)).refs
            except ConfigError:  # said by whoever reads the list for its videos
                continue
            if setting in elsewhere:
                yield setting, _digest_of_lines(refs)
            yield f"{setting}.{VIDEOS}", digest_of_sizes(refs)


def _root_of(values: dict[str, Any], setting: str) -> str | None:
    """Return the folder that the paths of a list are relative to: the ``root`` beside its setting, or that of ``data``."""
    around: Any = values
    for part in setting.split(".")[:-1]:
        around = around[int(part) if isinstance(around, list) else part]
    root: str | None = around.get("root", values["data"].get("root"))
    return root


def _digest_of_lines(refs: ClipRefs) -> str:
    """Return the digest of the paths, labels and captions of a list that is no file of this host."""

    def line(index: int) -> str:
        captions = f" {caption_field(refs.captions(index))}" if refs.has_captions else ""
        return f"{refs.path(index)} {refs.labels[index].tolist()}{captions}"

    return hashlib.sha256(encoded("\n".join(map(line, range(len(refs)))))).hexdigest()


def digest_of_sizes(refs: ClipRefs) -> str:
    """Return the digest of the sizes of the files that a list names, in its order."""
    chosen = np.unique(np.linspace(0, len(refs) - 1, min(len(refs), MOST_FILES)).astype(np.int64)).tolist()
    places = (refs.location(index) for index in chosen)
    files = list(dict.fromkeys(place.path if isinstance(place, ByteRange) else place for place in places))
    remote = [file for file in files if is_remote(file)]
    if remote:
        asked = {remote[number] for number in np.linspace(0, len(remote) - 1, min(len(remote), MOST_OBJECTS)).astype(int)}
        files = [file for file in files if file in asked or not is_remote(file)]
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(_size, files, chunksize=256))
    return hashlib.sha256(np.array(sizes, "<i8").tobytes()).hexdigest()


def _size(file: str) -> int:
    try:
        return Store().state(file).size if is_remote(file) else os.stat(file).st_size
    except FetchError:
        return -1
    except (OSError, ValueError):
        return -1
