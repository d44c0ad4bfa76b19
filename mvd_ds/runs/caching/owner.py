"""One job per cache of targets: a second one that would write the same files is refused while the first lives."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.liveness.run_lock import RunLock
from mvd_ds.training.run_folder import RunFolder

#: Seconds between signs of life, by which a job of another host knows that this one lives.
SIGN_SECONDS = 5.0


class CacheOwner:
    """The right of this job to write into a cache, which its rank 0 takes; on other ranks nothing is held.

    Args:
        folder: folder of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.lock = RunLock(self.folder, "targets.cache")
        self.heartbeat: Heartbeat | None = None
        self.signed = 0.0

    def take(self) -> None:
        """Become the owner, and remove what a killed job was writing.

        Raises:
            ConfigError: in one line, if another job works in the folder, or it cannot be written.
        """
        self.lock.acquire()
        self.heartbeat = Heartbeat(self.folder, 0, 1)
        self.sign()

    def sign(self) -> None:
        """Give a sign of life, if the last one was a while ago."""
        if self.heartbeat is not None and time.monotonic() - self.signed > SIGN_SECONDS:
            self.heartbeat.write()
            self.signed = time.monotonic()

    def close(self) -> None:
        """Make way for the next job, and leave nothing but the cache."""
        if self.heartbeat is None or not self.lock.is_held():
            return
        self.heartbeat.path.unlink(missing_ok=True)
        self.lock.release()
        for emptied in (self.heartbeat.path.parent, self.folder.control):
            with contextlib.suppress(OSError):  # of a job that has come in between
                emptied.rmdir()
