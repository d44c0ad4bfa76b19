"""Plain webdataset shards, local or remote: an index is made of the headers of each tar once, and kept on the node's disk."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.captions import TEXT_COLUMN, caption_field, checked_captions
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mvd_ds.data.remote.addresses import is_remote, name_in
from mvd_ds.data.remote.cache import cache_folder
from mvd_ds.data.remote.clients import ObjectState
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.files import ConfigError, counted, one_line, read_json, write_json

_THREADS = 32
"""Shards that are indexed at the same time; each waits for its server most of the time."""
_WINDOW_BYTES = 8192
"""Bytes that are asked for around a header: those of the label and the facts beside a video are mostly among them."""
_MOST_TEXT_BYTES = 1 << 20
"""Bytes of a file of captions beside a video, and of its JSON where that is looked into."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 1_000_000


class _Member(NamedTuple):
    """A video in a tar: its name, the place of its bytes, and the text of the class and the captions beside it, or none."""

    name: str
    offset: int
    size: int
    label: str = ""
    captions: Sequence[str] = ()


def are_shards(manifest: str) -> bool:
    """Return whether a manifest is the name of tar files, such as ``s3://bucket/train-{000000..000999}.tar``."""
    return name_in(manifest).lower().endswith(".tar") if is_remote(manifest) else manifest.lower().endswith(".tar")


def shards_of(pattern: str) -> list[str]:
    """Return the names that braces stand for: ``{000..012}`` for numbers, as wide as the first, ``{a,b}`` for words.

    Raises:
        ConfigError: if there are more than a million.
    """
    parts = _BRACES.split(pattern)
    choices = [[part] if number % 2 == 0 else _choices(part) for number, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if not 0 < count <= _MOST_SHARDS:
        raise ConfigError(f"{one_line(without_secrets(pattern), 200)}: {count:,} tar files; 1 to {_MOST_SHARDS:,} can be read")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def manifest_of_shards(pattern: str) -> bytes:
    """Return the text of a manifest of all videos in the tar files of ``pattern``, in their order.

    The class of a video is the number in the ``.cls`` file of its name, where all have one. Its captions are the lines of its
    ``.txt`` file, or what its ``.json`` says under ``text``, as ``prepare`` writes both. Names are those of the members below
    the name of their shard.

    Raises:
        ConfigError: if a shard cannot be read or is no tar, no video is in them, some have a class and others have none, or a
            caption is none.
    """
    shards = shards_of(pattern)
    with ThreadPoolExecutor(min(_THREADS, len(shards))) as pool:
        members = list(pool.map(_indexed, shards))
    found = [(shard, member) for shard, inside in zip(shards, members, strict=True) for member in inside]
    where = one_line(without_secrets(pattern), 200)
    if not found:
        raise ConfigError(f"{where}: there are no videos in {counted(len(shards), 'tar file')}")
    bare = [member.name for _, member in found if not member.label]
    if bare and len(bare) < len(found):
        raise ConfigError(
            f"{where}: {len(bare)} of {len(found)} videos have no .cls file beside them, such as {one_line(bare[0], 100)}"
        )
    has_captions = any(member.captions for _, member in found)
    text = ["# columns: shard offset bytes" + (f" {TEXT_COLUMN}" if has_captions else "")]
    for shard, (name, offset, size, label, captions) in found:
        if any(mark in f"{name}{shard}" for mark in "\t\n\r"):
            raise ConfigError(f"{where}: the name of {one_line(name, 100)} holds a tab or a line break")
        below = os.path.basename(name_in(shard) if is_remote(shard) else shard)
        shard = shard if is_remote(shard) else os.path.abspath(shard)
        fields = [f"{below}/{name}", *([label] if label else []), shard, str(offset), str(size)]
        text.append("\t".join([*fields, caption_field(captions)] if has_captions else fields))
    return os.fsencode("\n".join(text) + "\n")


def _choices(inside: str) -> list[str]:
    numbers = _NUMBERS.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    width = len(numbers[1])
    return [str(number).zfill(width) for number in range(first, min(last, first + _MOST_SHARDS) + 1)]


def _indexed(shard: str) -> Sequence[_Member]:
    """Return the videos in a tar, from the kept index if the tar is the one that it was made of."""
    try:
        state = Store().state(shard) if is_remote(shard) else _local_state(shard)
        key = hashlib.sha256(f"{shard}\n{state.size}\n{state.tag}\n{TEXT_COLUMN}".encode("utf-8", "surrogateescape")).hexdigest()
        kept = cache_folder() / "indexes" / key[:2] / f"{key[2:]}.json"
        if state.tag and kept.exists():
            try:
                return [_Member(*member) for member in read_json(kept)]
            except (ConfigError, TypeError):
                pass  # damaged: it is made again
        members = _members_of(shard, state)
        if state.tag:
            with suppress(OSError):  # emptied by somebody, full, not to be written: it is made again the next time
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(kept, members, sync=False)
        return members
    except FetchError as error:
        raise ConfigError(f"{one_line(without_secrets(shard), 200)}: {error}") from None
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{one_line(without_secrets(shard), 200)}: is no whole tar file: {one_line(error, 100)}") from None
    except OSError as error:
        raise ConfigError(f"{one_line(error.filename or without_secrets(shard), 200)}: {error.strerror or error}") from None


def _local_state(shard: str) -> ObjectState:
    state = os.stat(shard)
    return ObjectState(state.st_size, str(state.st_mtime_ns))


def _members_of(shard: str, state: ObjectState) -> list[_Member]:
    raw: Any = _Windows(Store(), shard, state) if is_remote(shard) else io.FileIO(shard)
    with io.BufferedReader(raw, _WINDOW_BYTES) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        return list(_videos_in(tar, shard))


def _videos_in(tar: tarfile.TarFile, shard: str) -> Iterator[_Member]:
    found: list[_Member] = []
    labels: dict[str, str] = {}
    texts: dict[str, dict[str, Sequence[str]]] = {".txt": {}, ".json": {}}
    for member in tar:
        extension = os.path.splitext(member.name)[1].lower()
        if not member.isreg():
            continue
        if extension == ".cls":
            file = tar.extractfile(member)
            label = file.read(32).decode(errors="replace").strip() if file is not None else ""
            if not re.fullmatch(r"-?\d{1,18}", label):
                raise ConfigError(f"{one_line(without_secrets(shard), 200)}: {one_line(member.name, 100)}: holds no class number")
            labels[_key_of(member.name)] = label
        elif extension in texts:
            try:
                texts[extension][_key_of(member.name)] = _captions_in(tar, member, extension)
            except ValueError as error:
                shown = one_line(without_secrets(shard), 200)
                raise ConfigError(f"{shown}: {one_line(member.name, 100)}: {error}") from None
        elif extension in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
            found.append(_Member(member.name, member.offset_data, member.size))
    for one in found:
        key = _key_of(one.name)
        captions = texts[".json"].get(key) or texts[".txt"].get(key, ())
        yield one._replace(label=labels.get(key, ""), captions=captions)


def _captions_in(tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> Sequence[str]:
    """Return the captions that a file beside a video holds; none of JSON that says nothing under ``text``.

    Raises:
        ValueError: in a few words, if they are too long, not UTF-8, or something else.
    """
    if member.size > _MOST_TEXT_BYTES:
        if extension == ".json":  # facts of others, which may be many: not the place of a caption
            return ()
        raise ValueError(f"its {member.size:,} bytes of captions are more than {_MOST_TEXT_BYTES:,}")
    file = tar.extractfile(member)
    content = file.read() if file is not None else b""
    if extension == ".json":
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return ()
        told = value.get(TEXT_COLUMN) if isinstance(value, dict) else None
        return checked_captions(told) if told else ()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at its byte {error.start + 1}") from None
    return checked_captions([line.strip() for line in lines if line.strip()])


def _key_of(name: str) -> str:
    """Return what the files of one sample have in common: the name up to the first dot after its folder."""
    folder, base = os.path.split(name)
    return os.path.join(folder, base.partition(".")[0])


class _Windows(io.RawIOBase):
    """A remote object as a file that is read in windows, one request each."""

    def __init__(self, store: Store, address: str, state: ObjectState) -> None:
        self._store, self._address, self._state, self._size, self._place = store, address, state, state.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        content = b"".join(self._store.pieces(self._address, self._place, end, state=self._state))
        buffer[: len(content)] = content
        self._place = end
        return len(content)
