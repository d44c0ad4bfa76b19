"""The end of a process that cannot go on: one line, the records, and exit. No collective, which might never end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from mvd_ds.files import ConfigError, encoded, printable
from mvd_ds.training.run_folder import FAILED


class Diverged(ConfigError):
    """The end of a training by its own numbers: others that run in the same processes may go on."""


#: Called with the reason and whether this process speaks for the run, before the process ends.
_records: list[Callable[[str, bool], None]] = []
#: The terminal's descriptor, where standard error is a log.
_terminal: list[int] = []


def record_with(function: Callable[[str, bool], None]) -> Callable[[], None]:
    """Have ``function(reason, speaks)`` called before the process ends; returns what takes that back."""
    _records.append(function)
    return lambda: _records.remove(function)


def duplicate_errors_to(descriptor: int) -> Callable[[], None]:
    """Have ``log_error`` write to ``descriptor``, too; returns what takes that back."""
    _terminal.append(descriptor)
    return lambda: _terminal.remove(descriptor)


def log_error(text: str) -> None:
    """Write one line to standard error, from any rank, and to the terminal, too, where standard error is a log."""
    line = f"mvd_ds: {printable(text)}\n"
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
        for descriptor in _terminal:
            os.write(descriptor, encoded(line))
    except OSError:
        pass


def abort(reason: str, speak: bool = True) -> NoReturn:
    """End this process at once; the launcher and the watch of the other ranks end them.

    For faults that hit one rank between collectives: waiting for the others would hang until the timeout.
    """
    if speak:
        log_error(reason)
    for function in list(_records):
        try:
            function(reason, speak)
        except OSError:
            pass
    sys.stdout.flush()
    os._exit(FAILED)
