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
from mvd_ds.data.prepare.jobs import file_state
from mvd_ds.data.prepare.originals import Originals
from mvd_ds.data.readers.groups import groups_of
from mvd_ds.data.readers.location import ByteRange, Location, read_bytes, size_of
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError
from mvd_ds.files import ConfigError, one_line, read_json, write_bytes, write_json, written_aside

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
    """A tar file to write; ``record`` keeps what it was made of, so that it is not made again."""

    path: Path
    """Name of the file."""
    members: list[Member]
    """Videos in it, in order."""
    record: Path | None = None


def sidecar_of(shard: Path) -> Path:
    """Return the path of the JSON file beside a shard: ``videos``, ``{key: [offset, bytes]}``, and ``groups``.

    ``groups`` has a line for each video of several groups of pictures, from which parts of it can be read (``Groups.text``).
    """
    return shard.with_suffix(".json")


def write_shard(shard: Shard, originals: Originals | None = None) -> dict[str, list[int]]:
    """Write a tar file, its sidecar, then its record; a shard that is whole and made of the same videos is left as it is.

    Args:
        shard: the file and its videos.
        originals: reads them, wherever they are.

    Returns:
        Offset and bytes of each video, by key.

    Raises:
        OSError: if a video cannot be read or the shard cannot be written.
    """
    originals = originals or Originals()
    digest, sidecar = _digest(shard.members, originals), sidecar_of(shard.path)
    if shard.record is not None:
        if sidecar.exists() and shard.path.exists() and _held(shard.record).get("digest") == digest:
            videos = _held(sidecar).get("videos")
            if videos is not None:
                places: dict[str, list[int]] = videos
                return places
        shard.record.unlink(missing_ok=True)
    sidecar.unlink(missing_ok=True)
    places, groups = {}, {}
    with written_aside(shard.path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in shard.members:
            place, text = _add_video(tar, member, originals)
            places[member.key] = place
            if text:
                groups[member.key] = text
            _add(tar, f"{member.key}.json", json.dumps(member.facts).encode())
            if captions := member.facts.get(TEXT_COLUMN):
                _add(tar, f"{member.key}.txt", "\n".join(" ".join(caption.split()) for caption in captions).encode())
            if member.label is not None:
                _add(tar, f"{member.key}.cls", str(member.label).encode())
    write_bytes(sidecar, json.dumps({"videos": places, "groups": groups}).encode())
    if shard.record is not None:
        write_json(shard.record, {"digest": digest})
    return places


def _add_video(tar: tarfile.TarFile, member: Member, originals: Originals) -> tuple[list[int], str]:
    """Add a video, and return its offset and bytes, and the text of its groups of pictures."""
    try:
        with originals.here(member.location) as location:
            place = [tar.offset + HEADER_BYTES, size_of(location)]
            _add(tar, f"{member.key}{member.extension}", location)
            return place, _groups_text(member.extension, location)
    except DecodeError as error:  # an object that was there when it was looked at
        raise OSError(f"{one_line(member.facts.get('name', member.key), 200)}: {error}") from None


def _groups_text(extension: str, location: str | ByteRange) -> str:
    """Return where the groups of pictures of a video are, or nothing if it is to be read whole."""
    if extension.lower() in IMAGE_EXTENSIONS:
        return ""
    try:
        groups = groups_of(location)
    except DecodeError:  # of a video that was looked at: what is wrong, its readers say
        return ""
    return "" if groups is None else groups.text()


def _held(path: Path) -> dict[str, Any]:
    """Return the content of a sidecar or record, or nothing if it is damaged or not there: its shard is then written anew."""
    if not path.exists():
        return {}
    try:
        held = read_json(path)
    except ConfigError:
        return {}
    return held if isinstance(held, dict) else {}


def _digest(members: list[Member], originals: Originals) -> str:
    """Return a digest of names, facts and labels, and of the state of each file or object."""
    held = [(*one, originals.state(one.location) or file_state(one.location)) for one in members]
    return hashlib.sha256(repr(held).encode("utf-8", "surrogateescape")).hexdigest()


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
