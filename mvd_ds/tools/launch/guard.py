"""A second process that outlives a killed supervisor to end the processes that it has left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


class Guard:
    """A context in which a kill -9 of this process still leads to a call of ``end``.

    A forked child waits at a pipe; the system closes the other end when this process is gone, however it went. Make it before
    any thread.

    Args:
        end: ends the launch's processes, on all its hosts; it runs in the child.
    """

    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end

    def __enter__(self) -> Guard:
        reading, self.writing = os.pipe()
        self.child = os.fork()
        if not self.child:
            os.close(self.writing)
            self._wait(reading)
        os.close(reading)
        return self

    def _wait(self, reading: int) -> None:
        # A session of its own: a signal to the supervisor's group, or a closed terminal, must not end the guard first.
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        try:
            if not os.read(reading, 1):
                self.end()
                # Last, because nobody may be there to read it any more.
                print("launch: the supervisor was killed; its processes are ended", file=sys.stderr, flush=True)
        finally:
            os._exit(0)

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed it
            os.write(self.writing, b"d")
        os.close(self.writing)
        os.waitpid(self.child, 0)
