"""Processes that hang or die take nothing but their own job with them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from mvd_ds.data.prepare.process_pool import Fault, run_jobs


def act(job: str) -> object:
    """Do what ``job`` says."""
    if job == "raise":
        raise ValueError("wrong\nin two lines")
    if job == "spin":
        ctypes.CDLL(None).pause()  # native, and deaf to Python's handlers
    if job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "leave":
        os._exit(3)
    return job.upper()


def test_every_job_has_an_outcome() -> None:
    jobs = ["a", "raise", "spin", "b", "crash", "killed", "leave", "c"]
    outcomes = dict(run_jobs(act, jobs, workers=2, seconds_per_job=0.4))
    assert [outcomes[number] for number in range(len(jobs))] == [
        "A",
        Fault("wrong in two lines"),
        Fault("took longer than 0.4 s and was ended (--seconds-per-file)"),
        "B",
        Fault("ended its reader (SIGSEGV)"),
        Fault("ended its reader (SIGKILL): perhaps memory is short"),
        Fault("ended its reader (exit code 3)"),
        "C",
    ]
    assert dict(run_jobs(act, [], 2, 1.0)) == {}


def note(path: str) -> None:
    """Write this process's number to ``path`` and wait."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def test_processes_end_with_the_one_who_asked(tmp_path: Path) -> None:
    jobs = run_jobs(act, ["a", "b"], 1, 5.0)
    next(jobs)
    jobs.close()
    slow = run_jobs(note, [str(tmp_path / "number")], 1, 0.3)
    assert [fault.reason.split(" and")[0] for _, fault in slow] == ["took longer than 0.3 s"]
    number = int((tmp_path / "number").read_text())
    assert not Path(f"/proc/{number}").exists()
