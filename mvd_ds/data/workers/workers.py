"""Worker processes that fill batches ahead of the consumer; one that dies costs a file, not the run."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing import connection, forkserver, resource_tracker, util
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from mvd_ds.config import ConfigError
from mvd_ds.data.workers.quarantine import Barred
from mvd_ds.data.workers.shared_memory import BatchMemory, TensorLayout

_PRELOAD = ["torch", "mvd_ds.data.loader", "mvd_ds.data.evaluation"]
_POLL_SECONDS = 0.5
"""Interval at which a waiting consumer checks that workers make progress; a death is noticed at once."""
_START_SECONDS = 60.0
"""Time that a worker may take before its first file, on a busy machine."""
_CLOSE_SECONDS = 5.0
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
DEATHS_IN_A_ROW = 5
"""Workers that one task may end; more mean that memory or the machine is at fault, and end the run."""
_NOTHING = -1
_SOCKET_BYTES = 107
"""Longest path that a Unix socket may have."""
_SOCKET_SUFFIX_BYTES = len("/pymp-12345678/listener-12345678")
"""Length of the name that Python gives its sockets in ``TMPDIR``."""


class Reading:
    """A shared note of the file that a worker is reading, which the training process can read after the worker's death.

    Args:
        note: int64 (3,), shared: position in the stream, video, and a counter of changes.
    """

    def __init__(self, note: np.ndarray) -> None:
        self._note = note

    def begin(self, position: int, video: int) -> None:
        """Note that a file is about to be opened."""
        self._note[:] = position, video, self._note[2] + 1

    def end(self) -> None:
        """Note that the file is closed."""
        self._note[:] = _NOTHING, _NOTHING, self._note[2] + 1

    @property
    def now(self) -> tuple[int, int, int]:
        """Position, video (-1: none), and the counter."""
        position, video, count = self._note.tolist()
        return position, video, count


class Job(Protocol):
    """The job of workers: to fill rows of a batch. It is pickled to each of them once."""

    layout: dict[str, TensorLayout]
    """Arrays of a batch."""

    def fill(self, items: Sequence[int], rows: dict[str, np.ndarray], barred: Barred, reading: Reading) -> list[str]:
        """Write one row per item into ``rows``, arrays (len(items), ...), without opening what is ``barred``.

        Returns:
            ``path: reason`` of every video that could not be used.

        Raises:
            ConfigError: to end the run with this line.
        """
        ...

    def path(self, video: int) -> str:
        """Return the path of a video, for messages."""
        ...


class Task(NamedTuple):
    """A part of a batch for one worker."""

    number: int
    slot: int
    first_row: int
    items: Sequence[int]


class Death(NamedTuple):
    """The end of a worker: its reason and the file that was being read."""

    reason: str
    position: int
    video: int
    """Video that it was reading; -1: none."""
    deaths: int
    """Number of workers that the same task has ended by now, this one included."""


class Worker:
    """One worker process and its tasks. When it dies, a successor gets the same tasks."""

    def __init__(self, job: Job, memory: BatchMemory, notes: BatchMemory, number: int) -> None:
        self._arguments = job, memory, notes, number
        self._reading = Reading(notes.arrays(0)["note"][number])
        self._tasks: deque[Task] = deque()
        self._deaths = 0
        self._stall_reason = ""
        self._start()

    def _start(self) -> None:
        self._reading.end()
        self._seen, self._stuck_seconds = self._reading.now[2], 0.0
        self._begun = False
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = start_server().Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Task, barred: Barred) -> None:
        """Send one more task."""
        self._tasks.append(task)
        try:
            self.pipe.send((task, barred))
        except OSError:
            pass  # it is dead: the next look at its pipe finds that out, and the task is sent to its successor

    def take(self) -> tuple[Task, list[str]] | None:
        """Receive a finished task and its faults; None if the worker has died.

        Raises:
            ConfigError: if the task found that the run cannot go on.
            RuntimeError: for a mistake in the job's code, with the worker's traceback.
        """
        try:
            kind, said = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if kind == "fault":
            raise ConfigError(said)
        if kind == "bug":
            raise RuntimeError(f"a loader process failed:\n{said}")
        self._deaths = 0
        return self._tasks.popleft(), said

    def end_if_stuck(self, seconds: float, limit: float) -> None:
        """Kill the worker if it has been at one file for ``limit`` seconds, of which ``seconds`` passed since the last look."""
        count = self._reading.now[2]
        self._begun |= count != self._seen
        if count != self._seen or not self._tasks:
            self._seen, self._stuck_seconds = count, 0.0
            return
        self._stuck_seconds += seconds
        if self._stuck_seconds >= (limit if self._begun else max(limit, _START_SECONDS)):
            self._stall_reason = f"gave no answer for data.stall_seconds {limit:g}"
            self.process.kill()

    def reap(self) -> tuple[Death, list[Task]]:
        """Reap a dead worker and start its successor.

        Returns:
            How it ended, and its unfinished tasks in order.
        """
        self.process.join()
        position, video, _ = self._reading.now
        reason = self._stall_reason or _reason(self.process.exitcode)
        self._stall_reason = ""
        self._deaths += 1
        left = list(self._tasks)
        self._tasks.clear()
        self.pipe.close()
        self._start()
        return Death(reason, position, video, self._deaths), left

    def close(self) -> None:
        """Kill the process."""
        self.pipe.close()
        self.process.kill()

    def join(self) -> None:
        """Wait until the process has ended."""
        self.process.join(_CLOSE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def start_server() -> Any:
    """Start the fork server, which imports torch once for all workers while the model is being built, and return its context.

    Workers are not forked from the training process, whose CUDA context and threads would not survive it. The server, and
    the workers with it, ignore the signals that ask a job to stop: launchers send them to every process, and the
    training process needs its batches until it has saved.
    """
    context = forkserver_context(_PRELOAD)
    resource_tracker.ensure_running()  # Python starts it before the server, and lets two of these signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def forkserver_context(preload: Sequence[str]) -> Any:
    """Return multiprocessing's context for a fork server that imports ``preload``.

    Its sockets lie in ``TMPDIR``, or in ``/tmp`` where that path is too long for a socket, as a scheduler's may be.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    if len(os.fsencode(tempfile.gettempdir())) + _SOCKET_SUFFIX_BYTES > _SOCKET_BYTES:
        usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            util.get_temp_dir()  # made once, and removed at the end of this process
        finally:
            tempfile.tempdir = usual
    replace_lost_server()
    return context


def replace_lost_server() -> None:
    """End a fork server whose socket was deleted, as when ``TMPDIR`` is emptied; the next start of a process starts another.

    Processes that the old server has forked live on.
    """
    server: Any = forkserver._forkserver
    address, pid = server._forkserver_address, server._forkserver_pid
    os.makedirs(util.get_temp_dir(), mode=0o700, exist_ok=True)
    if pid is not None and not os.path.exists(address):
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def wait_for(workers: Sequence[Worker], stall_seconds: float) -> list[Worker]:
    """Wait up to half a second and return the workers that have answered or died; kill those that are stuck."""
    began = time.monotonic()
    ready = connection.wait([worker.pipe for worker in workers], _POLL_SECONDS)
    if not ready:
        # No more than this: a machine that was asleep has not waited.
        waited = min(time.monotonic() - began, 2 * _POLL_SECONDS)
        for worker in workers:
            worker.end_if_stuck(waited, stall_seconds)
    return [worker for worker in workers if worker.pipe in ready]


def _reason(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended its loader process, exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", as the kernel does when memory is short" if name == "SIGKILL" else ""
    return f"ended its loader process by {name}{hint}"


def _work(pipe: connection.Connection, job: Job, memory: BatchMemory, notes: BatchMemory, number: int) -> None:
    """Run a worker: task after task until the pipe closes."""
    _die_with_parent()
    torch.set_num_threads(1)
    reading = Reading(notes.arrays(0)["note"][number])
    try:
        while True:
            task, barred = pipe.recv()
            answer = _answer(job, memory, task, barred, reading)
            reading.end()
            pipe.send(answer)
    except (EOFError, OSError):
        return


def _die_with_parent() -> None:
    """Have the kernel end this process when the training process is gone: one that is stuck in a reader cannot see it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    pipe = parent.sentinel  # its other end is the training process's: when that dies, SIGIO comes, which ends this one
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if not parent.is_alive():
        os._exit(1)


def _answer(job: Job, memory: BatchMemory, task: Task, barred: Barred, reading: Reading) -> tuple[str, Any]:
    end = task.first_row + len(task.items)
    rows = {name: array[task.first_row : end] for name, array in memory.arrays(task.slot).items()}
    try:
        return "done", job.fill(task.items, rows, barred, reading)
    except ConfigError as error:
        return "fault", str(error)
    except Exception:
        return "bug", traceback.format_exc()
