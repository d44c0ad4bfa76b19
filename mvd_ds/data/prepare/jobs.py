"""Jobs on single videos that are done once: results are kept in a journal, so that an interrupted `prepare` goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mvd_ds.config.base import without_secrets
from mvd_ds.data.prepare.journal import Journal
from mvd_ds.data.prepare.options import PrepareOptions
from mvd_ds.data.prepare.process_pool import Fault, run_jobs
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.files import DISK_FULL, ConfigError, one_line

Keeping = Literal["retried", "retried and kept", "kept"]
"""What is done about jobs that failed: a part tries its own again, and keeps them for the join, which does not."""
Tell = Callable[[str, int, int], None]
"""A function that is called with phase, files done and files in all."""


class VideoJob(NamedTuple):
    """One video to look at or to encode."""

    name: str
    """Name of the video in the list."""
    location: str | ByteRange
    """File to read."""
    target: str = ""
    """File to write, if any."""
    state: str = ""
    """Mark of the content of an object; of a file it is asked for when it is needed."""


def run_once(
    phase: str,
    function: Callable[[VideoJob], Any],
    jobs: list[VideoJob],
    journal: Journal,
    options: PrepareOptions,
    tell: Tell,
    faults: Keeping = "retried",
) -> list[Any]:
    """Return the results of all jobs, from the journal or by running them in processes.

    Jobs that failed are tried again by the next call, unless ``faults`` says otherwise.

    Args:
        phase: name of the phase for ``tell``.
        function: does a job; its results must be JSON values.
        jobs: the jobs; results come in the same order, a ``Fault`` for each that failed.
        journal: results of earlier calls; new ones are appended.
        options: number of processes and seconds per file.
        tell: is told the progress.
        faults: what is done about jobs that failed.

    Raises:
        ConfigError: if the disk is full, or the originals' server gives nothing any more.
    """
    known: dict[str, Any] = {}
    for record in journal.read():
        if {"job", "facts"} <= record.keys():
            known[record["job"]] = record["facts"]
        elif {"job", "fault"} <= record.keys() and faults == "kept" and isinstance(known.get(record["job"]), Fault | None):
            known[record["job"]] = Fault(record["fault"])  # of a file that no part could do
    results = [known.get(_fingerprint(job)) for job in jobs]
    left = [number for number, result in enumerate(results) if result is None]
    tell(phase, len(jobs) - len(left), len(jobs))
    workers = min(options.workers, max(len(left), 1))
    pending = run_jobs(function, [jobs[number] for number in left], workers, options.seconds_per_file)
    for done, (place, result) in enumerate(pending, len(jobs) - len(left) + 1):
        job = jobs[left[place]]
        if isinstance(result, Fault):
            if result.code in DISK_FULL:
                raise ConfigError(
                    f"{one_line(job.target)}: {result.reason}; make room, and start the same command again: it goes on"
                )
            if result.ends:
                raise ConfigError(f"{result.reason}; the same command goes on")
            if faults != "retried":
                journal.append({"job": _fingerprint(job), "fault": result.reason})
        else:
            journal.append({"job": _fingerprint(job), "facts": result})
        results[left[place]] = result
        tell(phase, done, len(jobs))
    return results


def _fingerprint(job: VideoJob) -> str:
    """Return a text that changes when the file of the job, or the file made of it, is another one."""
    made = f" -> {job.target} {file_state(job.target)}" if job.target else ""
    return f"{shown_name(job.name)} {job.state or file_state(job.location)}{made}"


def shown_name(name: str) -> str:
    """Return the name of a video for reports and journals; what an address hides there is told by a mark alone."""
    shown = without_secrets(name)
    return name if shown == name else f"{shown} ({hashlib.sha256(os.fsencode(name)).hexdigest()[:8]})"


def file_state(location: str | ByteRange) -> str:
    """Return size and modification time of the file as a text, ``missing`` if it is not there."""
    try:
        state = os.stat(location if isinstance(location, str) else location.path)
    except OSError:
        return "missing"
    return f"{state.st_size}-{state.st_mtime_ns}" + ("" if isinstance(location, str) else f"-{location.offset}-{location.size}")
