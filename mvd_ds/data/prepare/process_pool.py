"""A pool of processes that may hang or die in native code: only the job that they were in is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from mvd_ds.data.readers.video import reason_of
from mvd_ds.data.workers.workers import forkserver_context, replace_lost_server
from mvd_ds.files import ConfigError


class Fault(NamedTuple):
    """The outcome of a job that failed, hung or ended its process."""

    reason: str
    """Why it failed, in one line."""
    code: int = 0
    """``errno`` of an error of the operating system, else 0."""
    ends: bool = False
    """Whether it is not this job that is at fault, and others would fail alike."""


class _Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    connection: Connection


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], workers: int, seconds_per_job: float
) -> Iterator[tuple[int, Any]]:
    """Yield (number of the job, its result or a ``Fault``) in the order in which jobs end.

    A process that is in a job for longer than ``seconds_per_job`` is ended by the kernel, even within a native call and even
    if this process is gone; a new one takes its place.
    """
    # Not forked from this process, which may have threads, but from one that has imported everything and does nothing else.
    context = forkserver_context(["mvd_ds.data.prepare.inspection", "mvd_ds.data.prepare.encode", "mvd_ds.data.prepare.shards"])
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int]] = {}
    waiting = iter(range(len(jobs)))
    number = next(waiting, None)
    try:
        while number is not None or busy:
            while number is not None and len(busy) < max(workers, 1):
                worker = idle.pop() if idle else _start(context, function, seconds_per_job)
                worker.connection.send(jobs[number])
                busy[worker.connection] = (worker, number)
                number = next(waiting, None)
            for connection in wait(list(busy)):
                worker, done = busy.pop(connection)
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):
                    result = Fault(_death_message(worker, seconds_per_job))
                else:
                    idle.append(worker)
                yield done, result
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def _start(context: Any, function: Callable[[Any], Any], seconds: float) -> _Worker:
    replace_lost_server()
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, seconds, dict(os.environ)), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(connection: Connection, function: Callable[[Any], Any], seconds: float, environment: dict[str, str]) -> None:
    """Do jobs until the other end is closed, in the environment of who asks for them: credentials are found there."""
    os.environ.clear()  # that of the server, which may be an earlier one
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt from the keyboard is the caller's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # by the kernel: Python's own handlers wait for a native call to return
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            result = function(job)
        except ConfigError as error:
            result = Fault(str(error), ends=True)
        except Exception as error:
            result = Fault(reason_of(error), getattr(error, "errno", None) or 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(result)


def _death_message(worker: _Worker, seconds: float) -> str:
    worker.process.join()
    worker.connection.close()
    code = worker.process.exitcode or 0
    if code == -signal.SIGALRM:
        return f"took longer than {seconds:g} s and was ended (--seconds-per-file)"
    if code == -signal.SIGKILL:
        return "ended its reader (SIGKILL): perhaps memory is short"
    return f"ended its reader ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
