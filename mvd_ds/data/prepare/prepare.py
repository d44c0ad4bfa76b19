"""``prepare``: from a list of videos to a manifest that knows them, with files that are quick to read.

Three phases, each of which takes up where it was stopped: look at every file, encode it anew, pack all into shards. The
manifest is written last; originals are only read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.listings import ListedVideo, Listing
from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.inspection import COLUMNS, inspect_file
from mvd_ds.data.prepare.process_pool import Fault, run_jobs
from mvd_ds.data.prepare.report import write_report
from mvd_ds.data.prepare.shards import Member, Shard, divide, write_shard
from mvd_ds.data.readers.location import ByteRange, extension_of
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError
from mvd_ds.data.whole_files import DISK_FULL, Journal, write_whole

MANIFEST = "manifest.txt"
_SETTINGS = "prepare.json"
_WORK = ".prepare"
Tell = Callable[[str, int, int], None]
"""Called with phase, files done, files in all."""


class PrepareOptions(NamedTuple):
    """What to do with the videos."""

    verify: bool = False
    """Decode every frame of every file."""
    encoding: Encoding | None = None
    shard_bytes: int = 0
    """0: no shards."""
    workers: int = 1
    seconds_per_file: float = 300.0


class _Job(NamedTuple):
    """Something to do with one video."""

    name: str
    location: str | ByteRange
    target: str = ""
    """File to write."""


class Found(NamedTuple):
    """What is known of one good video."""

    entry: ListedVideo
    facts: dict[str, Any]
    location: str | ByteRange
    """Of the file to train on: the original, or what was made of it."""


def prepare(source: Path, listing: Listing, output: Path, options: PrepareOptions, tell: Tell) -> dict[str, Any]:
    """Look at, encode and pack the videos of ``listing``; write ``manifest.txt``, ``report.json`` and ``report.txt``.

    Returns:
        The report.

    Raises:
        ConfigError: if ``output`` holds something else, is in the way of ``source``, cannot be written, or no video is good.
    """
    try:
        _claim(source, output, options)
        work = output / _WORK
        faults = dict.fromkeys(listing.missing, "no such file")
        entries = [entry for entry in listing.entries if _nameable(entry, faults)]
        found = _look(entries, work, options, faults, tell)
        if options.encoding is not None:
            found = _encode(found, output, options.encoding, options, faults, tell)
        if not found:
            some = next(iter(faults.items()), ("", "the list is empty"))
            raise ConfigError(f"{source}: none of {len(listing.entries)} videos can be used, for example {some[0]}: {some[1]}")
        places = _pack(found, output, options, tell) if options.shard_bytes else _packed_already(found)
        report = write_report(output, source, listing, found, faults, options)
        write_whole(output / MANIFEST, _manifest(listing, found, places, output))
    except OSError as error:
        raise ConfigError(f"{error.filename or output}: {error.strerror or error}") from None
    if options.shard_bytes:
        shutil.rmtree(output / "videos", ignore_errors=True)
    return report


def is_prepared(output: Path) -> bool:
    """Whether ``output`` is complete."""
    return (output / MANIFEST).exists()


def _claim(source: Path, output: Path, options: PrepareOptions) -> None:
    """Make ``output`` the folder of these settings."""
    inside = source.resolve() if source.is_dir() else None
    if inside is not None and (output.resolve().is_relative_to(inside) or inside.is_relative_to(output.resolve())):
        raise ConfigError(f"{output}: lies in {source}, or around it; choose a folder beside the originals")
    settings = json.loads(json.dumps({"version": 1, "source": str(source.resolve()), **options._asdict()}))
    for name in ("workers", "seconds_per_file"):  # these change nothing in the outcome
        del settings[name]
    record = output / _SETTINGS
    if record.exists():
        held = json.loads(record.read_bytes())
        changed = [name for name in settings if held.get(name) != settings[name]]
        if changed:
            raise ConfigError(
                f"{output}: was begun with {changed[0]} {held.get(changed[0])}, not {settings[changed[0]]}; "
                "choose another folder, or delete it"
            )
        return
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output}: the folder holds other files; choose a new or empty one")
    (output / _WORK).mkdir(parents=True)
    write_whole(record, json.dumps(settings, indent=1).encode())


def _nameable(entry: ListedVideo, faults: dict[str, str]) -> bool:
    if "\t" in entry.name or "\n" in entry.name:
        faults[entry.name] = "its name holds a tab or a line break, which a manifest cannot"
        return False
    return True


def _look(entries: list[ListedVideo], work: Path, options: PrepareOptions, faults: dict[str, str], tell: Tell) -> list[Found]:
    """Facts of each good video."""
    jobs = [_Job(entry.name, entry.location) for entry in entries]
    function = partial(_look_at, verify=options.verify)
    results = _run("looking", function, jobs, Journal(work / "looked.jsonl"), options, tell)
    return [
        Found(entry, result, entry.location)
        for entry, result in zip(entries, results, strict=True)
        if not _is_fault(entry, result, faults)
    ]


def _look_at(job: _Job, verify: bool) -> dict[str, Any]:
    return inspect_file(job.location, verify)


def _encode(
    found: list[Found], output: Path, encoding: Encoding, options: PrepareOptions, faults: dict[str, str], tell: Tell
) -> list[Found]:
    """Every video encoded anew into ``output/videos``; images stay as they are."""
    videos = [one for one in found if extension_of(one.location) not in IMAGE_EXTENSIONS]
    targets = _targets([one.entry.name for one in videos], output / "videos")
    jobs = [_Job(one.entry.name, one.location, str(target)) for one, target in zip(videos, targets, strict=True)]
    function = partial(_encode_one, encoding=encoding)
    results = _run("encoding", function, jobs, Journal(output / _WORK / "encoded.jsonl"), options, tell)
    made = iter(zip(jobs, results, strict=True))
    kept = []
    for one in found:
        if extension_of(one.location) not in IMAGE_EXTENSIONS:
            job, result = next(made)
            if _is_fault(one.entry, result, faults):
                continue
            one = Found(one.entry, result, job.target)
        kept.append(one)
    return kept


def _encode_one(job: _Job, encoding: Encoding) -> dict[str, Any]:
    count = encode(job.location, Path(job.target), encoding)
    facts = inspect_file(job.target, verify=False)
    if facts["frames"] != count:
        raise DecodeError(f"{facts['frames']} frames were written, not {count}")
    return facts


def _targets(names: list[str], folder: Path) -> list[Path]:
    """A file for each video: its own name where that is free and stays in the folder."""
    taken: set[str] = set()
    targets = []
    for number, name in enumerate(names):
        stem = os.path.splitext(name)[0]
        if os.path.isabs(stem) or ".." in stem.split(os.sep) or stem in taken:
            stem = f"{number:08d}"
        taken.add(stem)
        targets.append(folder / f"{stem}.mp4")
    return targets


def _pack(found: list[Found], output: Path, options: PrepareOptions, tell: Tell) -> dict[str, tuple[str, int, int]]:
    """Shard, offset and bytes of every video, by name."""
    folder = output / "shards"
    folder.mkdir(exist_ok=True)
    # Shuffled once, so that those who read shards from start to end do not meet a class at a time.
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    sizes = [one.location.size if isinstance(one.location, ByteRange) else os.path.getsize(one.location) for one in found]
    parts = divide([sizes[number] for number in order], options.shard_bytes)
    shards = [
        Shard(folder / f"{index:06d}.tar", [_member(number, found[number]) for number in order[part.start : part.stop]])
        for index, part in enumerate(parts)
    ]
    places: dict[str, tuple[str, int, int]] = {}
    for done, (index, result) in enumerate(run_jobs(write_shard, shards, options.workers, float(10**6)), 1):
        if isinstance(result, Fault):
            raise ConfigError(f"{shards[index].path}: cannot be written: {result.reason}")
        for key, (offset, size) in result.items():
            places[found[int(key)].entry.name] = (f"shards/{shards[index].path.name}", offset, size)
        tell("packing", done, len(shards))
    return places


def _packed_already(found: list[Found]) -> dict[str, tuple[str, int, int]]:
    """The same, of videos that came in shards and stay there."""
    return {
        one.entry.name: (os.path.abspath(one.location.path), one.location.offset, one.location.size)
        for one in found
        if isinstance(one.location, ByteRange)
    }


def _member(number: int, one: Found) -> Member:
    facts = {"name": one.entry.name, "labels": list(one.entry.labels), **one.facts}
    label = one.entry.labels[0] if len(one.entry.labels) == 1 else None
    return Member(f"{number:08d}", extension_of(one.location) or ".mp4", one.location, facts, label)


def _run(
    phase: str, function: Callable[[_Job], Any], jobs: list[_Job], journal: Journal, options: PrepareOptions, tell: Tell
) -> list[Any]:
    """Results of all jobs, from the journal or by processes. What failed is not in the journal: it is tried again."""
    known = {record["job"]: record["facts"] for record in journal.read() if {"job", "facts"} <= record.keys()}
    results = [known.get(_mark(job)) for job in jobs]
    left = [number for number, result in enumerate(results) if result is None]
    tell(phase, len(jobs) - len(left), len(jobs))
    workers = min(options.workers, max(len(left), 1))
    pending = run_jobs(function, [jobs[number] for number in left], workers, options.seconds_per_file)
    for done, (place, result) in enumerate(pending, len(jobs) - len(left) + 1):
        job = jobs[left[place]]
        if isinstance(result, Fault):
            if result.code in DISK_FULL:
                raise ConfigError(f"{job.target}: {result.reason}; make room, and start the same command again: it goes on")
        else:
            journal.append({"job": _mark(job), "facts": result})
        results[left[place]] = result
        tell(phase, done, len(jobs))
    return results


def _mark(job: _Job) -> str:
    """Which file it is and what was made of it, with sizes and times: what was found out about another file does not count."""
    made = f" -> {job.target} {_stamp(job.target)}" if job.target else ""
    return f"{job.name} {_stamp(job.location)}{made}"


def _stamp(location: str | ByteRange) -> str:
    """Size and time of the file."""
    try:
        state = os.stat(location if isinstance(location, str) else location.path)
    except OSError:
        return "missing"
    return f"{state.st_size}-{state.st_mtime_ns}" + ("" if isinstance(location, str) else f"-{location.offset}-{location.size}")


def _is_fault(entry: ListedVideo, result: Any, faults: dict[str, str]) -> bool:
    if isinstance(result, Fault):
        faults[entry.name] = result.reason
        return True
    return False


def _manifest(listing: Listing, found: list[Found], places: dict[str, tuple[str, int, int]], output: Path) -> bytes:
    lines = [b"# written by: python -m mvd_ds prepare"]
    made = any(one.location != one.entry.location for one in found) and not places
    if not made and not places:
        lines.append(b"# root: " + os.fsencode(os.path.abspath(listing.root)))
    if listing.label_names:
        lines.append(f"# labels: {' '.join(listing.label_names)}".encode())
    if listing.class_names:
        lines.append(f"# classes: {json.dumps(listing.class_names, ensure_ascii=False)}".encode())
    lines.append(f"# columns: {' '.join((*COLUMNS, *(('shard', 'offset', 'bytes') if places else ())))}".encode())
    for one in found:
        fields = [*one.entry.labels, *(_shown(one.facts[name]) for name in COLUMNS), *places.get(one.entry.name, ())]
        name = os.path.relpath(str(one.location), output) if made else one.entry.name
        lines.append(os.fsencode(name) + "".join(f"\t{field}" for field in fields).encode())
    return b"\n".join(lines) + b"\n"


def _shown(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
