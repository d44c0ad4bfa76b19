"""The log of a rank, ``logs/attempt-NNN/rank-R.log``, and beside it the stacks of its threads when they are asked for.

Rank 0 writes to the terminal and its log; the other ranks to their logs alone, at the level of the file descriptors, so
that what libraries print in a crash is kept too. ``kill -USR2 PID`` adds all stacks of a process to ``rank-R.stack``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from mvd_ds.training.ending import duplicate_errors_to

ESCAPE = "\x1b"


class RankLog:
    """The log of this process, from ``open`` to ``close``.

    Args:
        folder: ``RunFolder.logs`` of the attempt.
        limit_mib: a larger log is moved to ``.1``.
    """

    def __init__(self, folder: Path, rank: int, limit_mib: int) -> None:
        self.path, self.stack_path = folder / f"rank-{rank}.log", folder / f"rank-{rank}.stack"
        self.rank, self.limit_bytes = rank, limit_mib * 2**20
        self.undo: list[Any] = []
        self.speaks, self.terminal = rank == 0, 1

    def open(self) -> None:
        """Open the files and send this process's output to them.

        Raises:
            OSError: if the files cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 - closed by close()
        self.stack = open(self.stack_path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        faulthandler.enable(file=self.stack, all_threads=True)
        faulthandler.register(signal.SIGUSR2, file=self.stack, all_threads=True, chain=False)
        if self.rank == 0:
            self._tee()
        else:
            self._redirect()

    def close(self) -> None:
        """End: output goes where it went before."""
        for undo in reversed(self.undo):
            undo()
        self.undo = []
        faulthandler.unregister(signal.SIGUSR2)
        faulthandler.disable()
        for file in (self.file, self.stack):
            with contextlib.suppress(OSError):  # as Tee
                file.close()

    def rotate(self) -> None:
        """Move a log that has grown too large aside. Called by the watch."""
        if self.path.stat().st_size < self.limit_bytes:
            return
        os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        fresh = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (self.file.fileno(), *((1, 2) if self.rank else ())):
            os.dup2(fresh, descriptor)
        os.close(fresh)

    def write_stacks(self, why: str) -> None:
        """Add the stacks of all threads of this process to its ``.stack`` file."""
        self.stack.write(f"--- {why}\n")
        self.stack.flush()
        faulthandler.dump_traceback(file=self.stack, all_threads=True)

    def speak(self) -> None:
        """Let the terminal hear, too, what this process prints from now on: it speaks for a student that it owns."""
        if self.speaks:
            return
        self.speaks, before = True, sys.stdout
        voice = os.fdopen(os.dup(self.terminal), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        sys.stdout = Voice(voice, before)
        self.undo += [voice.close, functools.partial(setattr, sys, "stdout", before)]

    def _tee(self) -> None:
        for name in ("stdout", "stderr"):
            before = getattr(sys, name)
            tee = Tee(before, self.file)
            setattr(sys, name, tee)
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                    handler.setStream(tee)
                    self.undo.append(lambda handler=handler, before=before: handler.setStream(before))
            self.undo.append(lambda name=name, before=before: setattr(sys, name, before))

    def _redirect(self) -> None:
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            kept = os.dup(descriptor)
            os.dup2(self.file.fileno(), descriptor)
            self.undo.append(functools.partial(_give_back, kept, descriptor))
            self.terminal = kept if descriptor == 1 else self.terminal
        self.undo.append(duplicate_errors_to(kept))


def _give_back(kept: int, descriptor: int) -> None:
    """Let ``descriptor`` be again what it was when ``kept`` was made of it."""
    os.dup2(kept, descriptor)
    os.close(kept)


class Tee:
    """A text stream that writes to two; the terminal may go away, and its live display is not for the log."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        try:
            self.terminal.write(text)
        except OSError:
            pass
        if ESCAPE not in text:
            with contextlib.suppress(OSError):  # a disk that is full is told by whoever needs it for more than talk
                self.log.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self.terminal.flush()
        except OSError:
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


class Voice(Tee):
    """A ``Tee`` of one of several processes that speak: their lines stand one below the other, and none has a display."""

    def isatty(self) -> bool:
        """Return False, whatever the terminal is."""
        return False
