"""Tar files of videos that webdataset can read, and where in them each video is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.data.manifests.captions import TEXT_COLUMN
from mvd_ds.data.readers.groups import groups_of
from mvd_ds.data.readers.location import ByteRange, Location, read_bytes, size_of
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError
from mvd_ds.files import ConfigError, read_json, write_bytes, written_aside

HEADER_BYTES = 512
"""Bytes of the header of a tar member; names are short, so that each member has but one."""


class Member(NamedTuple):
    """A video to pack."""

    key: str
    """Name without extension. No dots: webdataset takes what follows the first one for the kind of file."""
    extension: str
    location: str | ByteRange
    """File to read it from."""
    facts: dict[str, Any]
    """Facts that are written beside the video as JSON; captions among them as ``.txt``, too, one a line."""
    label: int | None
    """Class that is written beside it as ``.cls``, if it has exactly one label."""


class Shard(NamedTuple):
    """A tar file to write."""

    path: Path
    """Name of the file."""
    members: list[Member]
    """Videos in it, in order."""


def sidecar_of(shard: Path) -> Path:
    """Return the path of the JSON file beside a shard: ``videos``, ``{key: [offset, bytes]}``, ``groups``, and ``digest``.

    ``groups`` has a line for each video of several groups of pictures, from which parts of it can be read (``Groups.text``).
    """
    return shard.with_suffix(".json")


def write_shard(shard: Shard) -> dict[str, list[int]]:
    """Write a tar file, then its sidecar; a shard that is whole and made of the same videos is left as it is.

    Returns:
        Offset and bytes of each video, by key.

    Raises:
        OSError: if a video cannot be read or the shard cannot be written.
    """
    digest, sidecar = _digest(shard.members), sidecar_of(shard.path)
    if sidecar.exists() and shard.path.exists():
        held = _sidecar(sidecar)
        if held.get("digest") == digest and "groups" in held:
            videos: dict[str, list[int]] = held["videos"]
            return videos
    sidecar.unlink(missing_ok=True)
    places, groups = {}, {}
    with written_aside(shard.path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in shard.members:
            size = size_of(member.location)
            places[member.key] = [tar.offset + HEADER_BYTES, size]
            _add(tar, f"{member.key}{member.extension}", member.location)
            if text := _groups_text(member):
                groups[member.key] = text
            _add(tar, f"{member.key}.json", json.dumps(member.facts).encode())
            if captions := member.facts.get(TEXT_COLUMN):
                _add(tar, f"{member.key}.txt", "\n".join(" ".join(caption.split()) for caption in captions).encode())
            if member.label is not None:
                _add(tar, f"{member.key}.cls", str(member.label).encode())
    write_bytes(sidecar, json.dumps({"videos": places, "groups": groups, "digest": digest}).encode())
    return places


def _groups_text(member: Member) -> str:
    """Return where the groups of pictures of a video are, or nothing if it is to be read whole."""
    if member.extension.lower() in IMAGE_EXTENSIONS:
        return ""
    try:
        groups = groups_of(member.location)
    except DecodeError:  # of a video that was looked at: what is wrong, its readers say
        return ""
    return "" if groups is None else groups.text()


def _sidecar(path: Path) -> dict[str, Any]:
    """Return the content of a sidecar, or nothing if it is damaged: its shard is then written anew."""
    try:
        held = read_json(path)
    except ConfigError:
        return {}
    return held if isinstance(held, dict) else {}


def _digest(members: list[Member]) -> str:
    """Return a digest of names, facts and labels, and of size and time of each file."""
    files = [os.stat(one.location if isinstance(one.location, str) else one.location.path) for one in members]
    held = [(*one, file.st_size, file.st_mtime_ns) for one, file in zip(members, files, strict=True)]
    return hashlib.sha256(repr(held).encode()).hexdigest()


def _add(tar: tarfile.TarFile, name: str, location: Location) -> None:
    header = tarfile.TarInfo(name)  # no owner, no time: the same videos make the same shard
    header.size = size_of(location)
    if isinstance(location, str):
        with open(location, "rb") as file:
            if os.fstat(file.fileno()).st_size != header.size:
                raise OSError(f"{location}: changes while it is being packed")
            tar.addfile(header, file)
    else:
        tar.addfile(header, io.BytesIO(read_bytes(location)))


def divide(sizes: list[int], shard_bytes: int) -> list[range]:
    """Return the consecutive videos of each shard: as many as fit into ``shard_bytes``, at least one."""
    parts, first, held = [], 0, 0
    for number, size in enumerate(sizes):
        if number > first and held + size > shard_bytes:
            parts.append(range(first, number))
            first, held = number, 0
        held += size + 4 * HEADER_BYTES
    return [*parts, range(first, len(sizes))] if sizes else []
