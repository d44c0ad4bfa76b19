"""One job per folder of results: a second one that would write the same files is refused while the first lives."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.liveness.run_lock import RUN, RunLock
from mvd_ds.training.run_folder import RunFolder, Status

#: Seconds between signs of life, by which a job of another host knows that this one lives.
SIGN_SECONDS = 5.0


class FolderOwner:
    """The right of this job to write into a folder, until the ``with`` block ends; a process that does not take it holds nothing.

    Trainings have ``Attempt``, which watches over all ranks; this is for the commands that only write what they found.

    Args:
        folder: the folder.
        setting: the setting or option that names it.
    """

    def __init__(self, folder: Path, setting: str = RUN) -> None:
        self.folder = RunFolder(folder)
        self.lock = RunLock(self.folder, setting, heeds_stop=False)
        self.emptied: list[Path] = []
        self.closing = threading.Event()
        self.signing: threading.Thread | None = None

    def take(self) -> Self:
        """Become the owner, and remove what a killed job was writing.

        Raises:
            ConfigError: in one line, if another job works in the folder, or it cannot be written.
        """
        made = [] if self.folder.path.exists() else [self.folder.path]
        self.lock.acquire()
        heartbeat = Heartbeat(self.folder, 0, Status(self.folder, 0).values["attempts"])
        self.emptied = [heartbeat.path.parent, self.folder.control, *made]
        heartbeat.write()
        self.signing = threading.Thread(target=self._sign, args=(heartbeat,), name="signs of life", daemon=True)
        self.signing.start()
        return self

    def _sign(self, heartbeat: Heartbeat) -> None:
        while not self.closing.wait(SIGN_SECONDS):
            heartbeat.write()
        heartbeat.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Make way for the next job, and leave nothing but what was written."""
        if self.signing is None:
            return
        self.closing.set()
        self.signing.join()
        self.lock.release()
        for emptied in self.emptied:
            with contextlib.suppress(OSError):  # of a job that has come in between, or of results
                emptied.rmdir()
