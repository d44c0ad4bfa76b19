"""The launcher above this process: when it dies, the ranks must not be left behind.

deepspeed's launcher leaves its ranks alone when it is killed, and its ``deepspeed`` command leaves the launcher alone.
"""

from __future__ import annotations

import os
import threading

from mvd_ds.training.ending import cry, leave
from mvd_ds.training.process import ProcessName, command_of, parent_of
from mvd_ds.training.stop import StopRequests

POLL_SECONDS = 1.0
#: So long the ranks may take to save and end after their launcher died; as long as deepspeed's gives them when told to end.
GRACE_SECONDS = 30.0


def launcher_processes() -> list[ProcessName]:
    """Parent of this process under a launcher, and the ``deepspeed`` command above it; none without a launcher.

    A shell that started this process without a launcher may end long before it.
    """
    if "RANK" not in os.environ:
        return []
    parent = os.getppid()
    above = parent_of(parent)
    by_command = above is not None and any(os.path.basename(word) == "deepspeed" for word in command_of(above)[:3])
    return [ProcessName.of(parent), *([ProcessName.of(above)] if above is not None and by_command else [])]


class LauncherWatch:
    """A thread that asks to stop when the launcher has died, and ends the process if that takes too long."""

    def __init__(self, stop: StopRequests, speaks: bool) -> None:
        self.stop, self.speaks = stop, speaks
        self.processes = launcher_processes()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="launcher watch", daemon=True)

    def __enter__(self) -> LauncherWatch:
        if self.processes:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()

    def _watch(self) -> None:
        while not self.over.wait(POLL_SECONDS):
            dead = next((process for process in self.processes if process.is_alive() is False), None)
            if dead is not None:
                self._end(f"the launcher ({dead}) died")
                return

    def _end(self, reason: str) -> None:
        if self.speaks:
            cry(f"{reason}; saving and ending")
        self.stop.request(reason)
        if not self.over.wait(GRACE_SECONDS):
            leave(f"{reason}, and saving took longer than {GRACE_SECONDS:g} s; the last checkpoint is whole", self.speaks)
