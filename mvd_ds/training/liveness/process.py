"""Names of processes by which other processes, attempts and machines can check whether one is still alive."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

_IMPORTED = time.monotonic()


class ProcessName(BaseModel, frozen=True):
    """The name of one process; a later one with the same id has another name."""

    host: str
    machine: str = ""
    """Boot and process namespace: numbers of processes can be compared where this is equal."""
    pid: int
    born: int = 0
    """Clock ticks from boot to start (0: unknown)."""

    @classmethod
    def of(cls, pid: int) -> ProcessName:
        """Return the name of the process that has id ``pid`` on this machine now."""
        found = _look(pid)
        return cls(host=socket.gethostname(), machine=_machine(), pid=pid, born=found.born if found else 0)

    def is_alive(self) -> bool | None:
        """Return whether it runs; a zombie does not. None if it is one of another machine."""
        if not self.machine or self.machine != _machine():
            return None
        found = _look(self.pid)
        return found is not None and found.state not in "ZX" and found.born == self.born

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class _Seen(NamedTuple):
    state: str
    born: int


def parent_of(pid: int) -> int | None:
    """Return the id of the parent of ``pid``, None if there is no such process."""
    fields = _fields(pid)
    return int(fields[1]) if fields else None


def command_of(pid: int) -> list[str]:
    """Return the command line of ``pid``, empty if it cannot be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def _look(pid: int) -> _Seen | None:
    fields = _fields(pid)
    return _Seen(fields[0], int(fields[19])) if fields else None


def _fields(pid: int) -> list[str]:
    """Return state, parent and the rest of /proc/PID/stat; what stands before is a name that may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


@functools.cache
def _machine() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def age_seconds() -> float:
    """Return the seconds since this process was started."""
    found = _look(os.getpid())
    try:
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return time.monotonic() - _IMPORTED
    return uptime - found.born / os.sysconf("SC_CLK_TCK") if found else time.monotonic() - _IMPORTED
