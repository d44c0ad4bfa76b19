"""The launcher above this process: when it dies, the ranks must not be left behind.

deepspeed's launcher leaves its ranks alone when it is killed, and its ``deepspeed`` command leaves the launcher alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from mvd_ds.training.ending import abort, log_error
from mvd_ds.training.liveness.process import ProcessName, command_of, parent_of
from mvd_ds.training.liveness.stop import StopRequests

POLL_SECONDS = 1.0
LAUNCH_MODULE = "deepspeed.launcher.launch"
#: It sets this for the ranks, and nobody else does.
LAUNCH_VARIABLE = "CROSS_SIZE"
#: So long the ranks may take to save and end after their launcher died; as long as deepspeed's gives them when told to end.
GRACE_SECONDS = 30.0


class Launcher:
    """The launcher above this process, and the ``deepspeed`` command above that; empty without a launcher.

    A shell that started this process without a launcher may end long before it.
    """

    def __init__(self) -> None:
        self.processes: list[ProcessName] = []
        self.died_before: str | None = None
        """Name of what had died before it could be watched: the first process of the machine has taken its place."""
        if "RANK" not in os.environ:
            return
        launcher = next((pid for pid in _ancestors() if LAUNCH_MODULE in command_of(pid)), None)
        self.processes.append(ProcessName.of(launcher or os.getppid()))
        if launcher is None:
            self.died_before = "the launcher" if LAUNCH_VARIABLE in os.environ else None
            return
        above = parent_of(launcher)
        if above is not None and any(os.path.basename(word) == "deepspeed" for word in command_of(above)[:3]):
            self.processes.append(ProcessName.of(above))
        elif above == 1:
            self.died_before = "the launcher's command"

    def dead(self) -> str | None:
        """Return which of them died, None if none did."""
        if self.died_before:
            return self.died_before
        found = next((process for process in self.processes if process.is_alive() is False), None)
        return None if found is None else f"the launcher ({found})"


def _ancestors() -> Iterator[int]:
    """Yield the ids of this process's parent, its parent, and so on; a user's script may stand below the launcher."""
    pid: int | None = os.getppid()
    while pid:
        yield pid
        pid = parent_of(pid)


class LauncherWatch:
    """A thread that asks to stop when the launcher has died, and ends the process if that takes too long."""

    def __init__(self, stop: StopRequests, speaks: bool) -> None:
        self.stop, self.speaks = stop, speaks
        self.launcher = Launcher()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="launcher watch", daemon=True)

    def __enter__(self) -> LauncherWatch:
        if self.launcher.processes:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()

    def _watch(self) -> None:
        while not self.over.wait(POLL_SECONDS):
            dead = self.launcher.dead()
            if dead is not None:
                self._end(f"{dead} died")
                return

    def _end(self, reason: str) -> None:
        if self.speaks:
            log_error(f"{reason}; saving and ending")
        self.stop.request(reason)
        if not self.over.wait(GRACE_SECONDS):
            abort(f"{reason}, and saving took longer than {GRACE_SECONDS:g} s; the last checkpoint is whole", self.speaks)
