"""The processes of a launch on this host: found by a mark in their environment, and ended to the last one.

Parents tell nothing: ranks of a killed launcher belong to init. A name tells too much: DeepSpeed's own ``pkill -f`` hits every
job of the user with the same hosts. The environment given at the start stays readable and is inherited by loader workers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

#: Name of the environment variable that marks the processes of a launch.
MARK = "MVD_DS_LAUNCH"
POLL_SECONDS = 0.1


def marked(launch: str) -> list[psutil.Process]:
    """Return the running processes of ``launch`` on this host, without the caller."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == launch and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            # It ended meanwhile, or belongs to another user and so not to us.
            continue
    return found


def wait_until_gone(launch: str, seconds: float) -> list[psutil.Process]:
    """Wait up to ``seconds`` for the processes of ``launch`` to end, and return those that are left."""
    deadline = time.monotonic() + seconds
    while (left := marked(launch)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


def end(launch: str, grace_seconds: float) -> int:
    """End all processes of ``launch``, by SIGKILL after ``grace_seconds``, and return how many there were.

    A process inside a system call that cannot be interrupted (a dead file server) does not die; after a minute it is left.
    """
    first = marked(launch)
    for process in first:
        _signal(process, psutil.Process.terminate)
    left = wait_until_gone(launch, grace_seconds) if first else []
    deadline = time.monotonic() + 60
    while left and time.monotonic() < deadline:
        for process in left:
            _signal(process, psutil.Process.kill)
        left = wait_until_gone(launch, 1.0)
    return len(first)


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    try:
        send(process)
    except psutil.Error:
        pass
