"""`prepare`: from a list of videos to a manifest with their facts, and to files that are quick to read.

Its three phases are to look at every file, to encode it anew, and to pack all into shards. Each goes on where it was stopped.
The manifest is written last; originals are only read.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.captions import TEXT_COLUMN
from mvd_ds.data.manifests.listings import ListedVideo, Listing
from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.folder import WORK, claimed, folder_of, is_prepared
from mvd_ds.data.prepare.inspection import inspect_file
from mvd_ds.data.prepare.jobs import Keeping, Tell, VideoJob, run_once, shown_name
from mvd_ds.data.prepare.options import Found, PrepareOptions
from mvd_ds.data.prepare.originals import Originals
from mvd_ds.data.prepare.parts import Part, journal_of, require_all, set_done
from mvd_ds.data.prepare.process_pool import Fault, run_jobs
from mvd_ds.data.prepare.report import write_report
from mvd_ds.data.prepare.shards import Member, Shard, divide, write_shard
from mvd_ds.data.prepare.writing import UNLISTABLE, Place, write_manifest
from mvd_ds.data.readers.location import ByteRange, extension_of
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError
from mvd_ds.data.remote.addresses import absolute, is_remote
from mvd_ds.files import ConfigError, one_line, read_json


def prepare(
    source: Path | str, listing: Listing, manifest: Path, options: PrepareOptions, tell: Tell, digest: str, joins: bool = False
) -> dict[str, Any]:
    """Look at, encode and pack the videos of ``listing``; write the manifest, ``report.json`` and ``report.txt``.

    Args:
        source: file or folder that the list was read from, or its address.
        listing: the videos.
        manifest: file to write; ``folder_of`` it takes the rest.
        options: what is done with the videos.
        tell: is told the progress.
        digest: that of the inputs.
        joins: take what the parts have found out; only what they have not is done here.

    Returns:
        The report.

    Raises:
        ConfigError: if the folder holds something else, another process works in it, it is in the way of ``source`` or cannot
            be written, or no video is good.
    """
    output = folder_of(manifest)
    try:
        with claimed(source, output, options):
            if is_prepared(manifest):  # by another process, which ended just now
                report: dict[str, Any] = read_json(output / "report.json")
                return report
            if joins:
                require_all(output / WORK, digest)
            return _prepare(source, listing, manifest, options, tell, joins)
    except OSError as error:
        raise ConfigError(f"{one_line(error.filename or output)}: {error.strerror or error}") from None


def prepare_part(
    source: Path | str, listing: Listing, manifest: Path, options: PrepareOptions, tell: Tell, digest: str, part: Part
) -> tuple[int, int]:
    """Look at and encode the videos of one part, for `prepare --join`; finished work is not done again.

    Args:
        source: file or folder that the list was read from, or its address.
        listing: all videos.
        manifest: file that the join will write.
        options: what is done with the videos.
        tell: is told the progress.
        digest: that of the inputs.
        part: which of them.

    Returns:
        The numbers of good videos and of videos of the part.

    Raises:
        ConfigError: as ``prepare``, or if another process does this part now.
    """
    output = folder_of(manifest)
    try:
        with claimed(source, output, options, part.name):
            faults: dict[str, str] = {}
            entries = [entry for entry in listing.entries if _can_be_named(entry, faults)]
            found = _looked_and_encoded(entries, output, options, faults, tell, part=part)
            set_done(output / WORK, part, digest, len(found))
            return len(found), len(part.take(entries))
    except OSError as error:
        raise ConfigError(f"{one_line(error.filename or output)}: {error.strerror or error}") from None


def _looked_and_encoded(
    entries: list[ListedVideo],
    output: Path,
    options: PrepareOptions,
    faults: dict[str, str],
    tell: Tell,
    part: Part | None = None,
    joins: bool = False,
) -> list[Found]:
    """Return the good videos of all entries, or of a part of them; the others go to ``faults``."""
    kept: Keeping = "retried and kept" if part is not None else "kept" if joins else "retried"
    targets = _targets([entry.name for entry in entries], output / "videos")
    if part is not None:
        entries, targets = part.take(entries), part.take(targets)
    once = partial(run_once, options=options, tell=tell, faults=kept)
    originals = Originals(options.seconds_per_file)
    look = partial(_look_at, verify=options.verify, originals=originals)
    states = originals.states([entry.location for entry in entries])
    jobs = [VideoJob(entry.name, entry.location, state=state) for entry, state in zip(entries, states, strict=True)]
    results = once("looking", look, jobs, journal_of(output / WORK, "looked", part))
    looked = [
        (Found(entry, result, entry.location), job._replace(target=str(target)))
        for entry, result, job, target in zip(entries, results, jobs, targets, strict=True)
        if not _is_fault(entry, result, faults)
    ]
    if options.encoding is None:
        return [one for one, _ in looked]
    encode_one = partial(_encode_one, encoding=options.encoding, originals=originals)
    jobs = [job for one, job in looked if extension_of(one.location) not in IMAGE_EXTENSIONS]
    made = iter(zip(jobs, once("encoding", encode_one, jobs, journal_of(output / WORK, "encoded", part)), strict=True))
    found = []
    for one, _ in looked:
        if extension_of(one.location) not in IMAGE_EXTENSIONS:
            job, result = next(made)
            if _is_fault(one.entry, result, faults):
                continue
            one = Found(one.entry, result, job.target)
        found.append(one)
    return found


def _prepare(
    source: Path | str, listing: Listing, manifest: Path, options: PrepareOptions, tell: Tell, joins: bool
) -> dict[str, Any]:
    output = folder_of(manifest)
    faults = dict(listing.missing)
    entries = [entry for entry in listing.entries if _can_be_named(entry, faults)]
    found = _looked_and_encoded(entries, output, options, faults, tell, joins=joins)
    if not found:
        name, reason = next(iter(faults.items()), ("", "the list is empty"))
        raise ConfigError(
            f"{one_line(source)}: none of {len(listing.entries)} videos can be used, for example {one_line(name)}: {reason}"
        )
    places = _pack(found, output, manifest.parent, options, tell) if options.shard_bytes else _packed_already(found)
    report = write_report(output, source, listing, found, faults, options)
    write_manifest(manifest, listing, found, places)
    if options.shard_bytes:
        shutil.rmtree(output / "videos", ignore_errors=True)
    return report


def _can_be_named(entry: ListedVideo, faults: dict[str, str]) -> bool:
    if "\t" in entry.name or "\n" in entry.name:
        faults[shown_name(entry.name)] = f"{UNLISTABLE}, which a manifest cannot"
        return False
    return True


def _look_at(job: VideoJob, verify: bool, originals: Originals) -> dict[str, Any]:
    with originals.here(job.location) as location:
        return inspect_file(location, verify)


def _encode_one(job: VideoJob, encoding: Encoding, originals: Originals) -> dict[str, Any]:
    with originals.here(job.location) as location:
        count = encode(location, Path(job.target), encoding)
    facts = inspect_file(job.target, verify=False)
    if facts["frames"] != count:
        raise DecodeError(f"{facts['frames']} frames were written, not {count}")
    return facts


def _targets(names: list[str], folder: Path) -> list[Path]:
    """Return a file for each video: of its own name if that is free and stays in the folder, or of a number."""
    taken: set[str] = set()
    targets = []
    for number, name in enumerate(names):
        stem = os.path.splitext(name)[0]
        if os.path.isabs(stem) or is_remote(stem) or ".." in stem.split(os.sep) or stem in taken:
            stem = f"{number:08d}"
        taken.add(stem)
        targets.append(folder / f"{stem}.mp4")
    return targets


def _pack(found: list[Found], output: Path, base: Path, options: PrepareOptions, tell: Tell) -> dict[str, Place]:
    """Pack all videos into tar shards and return their places by name, with shards relative to ``base``."""
    folder = output / "shards"
    folder.mkdir(exist_ok=True)
    # Shuffled once, so that those who read shards from start to end do not meet a class at a time.
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    originals = Originals(options.seconds_per_file)
    originals.states([one.location for one in found])  # at the same time, which the next line does not ask again
    sizes = [originals.size(one.location) for one in found]
    parts = divide([sizes[number] for number in order], options.shard_bytes)
    records = output / WORK / "packed"
    records.mkdir(exist_ok=True)
    shards = [
        Shard(
            folder / f"{index:06d}.tar",
            [_member(number, found[number]) for number in order[part.start : part.stop]],
            records / f"{index:06d}.json",
        )
        for index, part in enumerate(parts)
    ]
    places: dict[str, Place] = {}
    pack = partial(write_shard, originals=originals)
    for done, (index, result) in enumerate(run_jobs(pack, shards, options.workers, float(10**6)), 1):
        if isinstance(result, Fault):
            if result.ends:
                raise ConfigError(f"{result.reason}; the same command goes on")
            raise ConfigError(f"{shards[index].path}: cannot be written: {result.reason}")
        for key, (offset, size) in result.items():
            places[found[int(key)].entry.name] = (os.path.relpath(shards[index].path, base), offset, size)
        tell("packing", done, len(shards))
    return places


def _packed_already(found: list[Found]) -> dict[str, Place]:
    """Return the places of videos that came in shards and stay there."""
    return {
        one.entry.name: (absolute(one.location.path), one.location.offset, one.location.size)
        for one in found
        if isinstance(one.location, ByteRange)
    }


def _member(number: int, one: Found) -> Member:
    facts = {"name": without_secrets(one.entry.name), "labels": list(one.entry.labels), **one.facts}
    if one.entry.captions:  # a set without captions keeps the digests of its shards
        facts[TEXT_COLUMN] = list(one.entry.captions)
    label = one.entry.labels[0] if len(one.entry.labels) == 1 else None
    return Member(f"{number:08d}", extension_of(one.location) or ".mp4", one.location, facts, label)


def _is_fault(entry: ListedVideo, result: Any, faults: dict[str, str]) -> bool:
    if isinstance(result, Fault):
        faults[shown_name(entry.name)] = result.reason
        return True
    return False
