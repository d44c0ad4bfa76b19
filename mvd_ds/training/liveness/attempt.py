"""One start of a run, as one of its processes sees it: its right to the folder, signs of life, log, watch and end."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

import torch.distributed as dist

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ending import abort, record_with
from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.liveness.process import ProcessName
from mvd_ds.training.liveness.rank_log import RankLog
from mvd_ds.training.liveness.run_lock import RunLock, require_shared
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.liveness.watchdog import GOES_ON, Watchdog
from mvd_ds.training.run_folder import RunFolder, Status

#: What an error of a collective says when the other side is gone. Source: gloo's and torch's messages.
LOST = ("connection closed by peer", "connection reset", "connection refused", "broken pipe", "timed out", "[../third_party/gloo")


#: What writing to a disk that is full, broken or gone ends with.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN)


class Attempt:
    """One start of a run on this rank, made by ``attempt_of``: lock, heartbeat, log, watchdog and end.

    Attributes:
        status: ``status.json``.
        heartbeat: where this rank is; the loop tells it.
        stop: requests to stop.
        parts: status of each of several students.
    """

    def __init__(self, recipe: LearningRecipe, folder: RunFolder, cluster: Cluster, stop: StopRequests, last_step: int) -> None:
        self.recipe, self.folder, self.cluster, self.stop, self.last_step = recipe, folder, cluster, stop, last_step
        self.lock = RunLock(folder)
        self.parts: list[Status] = []

    def begin(self) -> None:
        """Take the folder, and start everything that watches. Collective.

        Raises:
            ConfigError: on every rank, if another job works in the folder, or not all ranks see it.
        """
        cluster, folder = self.cluster, self.folder
        self.take_folder()
        self.log = RankLog(folder.logs(self.number), cluster.rank, self.recipe.run.log_mib)
        with cluster.together():
            self.heartbeat = Heartbeat(folder, cluster.rank, self.number)
            if cluster.is_main:
                self.status.write("running", self.status.values["step"])
            self.log.open()
        peers = cluster.gather(ProcessName.of(os.getpid()))
        timeout = 60 * self.recipe.engine.timeout_minutes
        beats = self.recipe.run.heartbeat_seconds
        self.watchdog = Watchdog(folder, peers, self.heartbeat, self.log, timeout, beats, [self._look, self.log.rotate])
        self.watchdog.start()
        self.forget = record_with(self._record)

    def take_folder(self) -> None:
        """Become the owner of the folder, and number this attempt at its run. Collective.

        Raises:
            ConfigError: as ``begin``.
        """
        cluster, folder = self.cluster, self.folder
        with cluster.together():
            if cluster.is_main:
                self.lock.acquire()
                folder.stop.unlink(missing_ok=True)
        token = cluster.broadcast(self.lock.owner.token)
        with cluster.together():
            require_shared(folder, token)
            self.status = Status(folder, self.last_step)
        self.number: int = cluster.broadcast(self.status.values["attempts"])

    def preempted(self, step: int, reason: str) -> None:
        """Record that the run was asked to stop, saved ``step``, and goes on by the same command."""
        if self.cluster.is_main:
            self.status.write("preempted", step, reason=reason)
            self.folder.stop.unlink(missing_ok=True)
            say(f"stopped at step {step} of {self.last_step}: {reason}; the same command goes on from there")

    def end(self, state: str) -> None:
        """End well: write ``state`` and release the folder."""
        self.heartbeat.end(state)
        self._close()

    def fail(self, error: BaseException) -> None:
        """End badly; an error that another rank's death caused is reported as that, and this process ends here.

        What is raised on all ranks alike is recorded, and the caller raises it.
        """
        if isinstance(error, ConfigError | KeyboardInterrupt):
            reason = str(error) or "interrupted"
            with contextlib.suppress(OSError):  # the disk may be what it is about
                self.log.file.write(f"mvd_ds: {reason}\n")
            with contextlib.suppress(OSError):
                self._record(reason, speaks=self.cluster.is_main)
            self._close()
            return
        if self._is_loss(error):
            self._follow_the_dead()
        # What failed here may be what a dead rank's launcher has taken away already.
        self.watchdog.follow_the_dead()
        if isinstance(error, OSError) and (error.errno in DISK or not self.folder.path.is_dir()):
            where = os.fsdecode(error.filename or self.folder.path)
            abort(f"{where}: {error.strerror}; what was saved is whole: free or bring back the disk, and {GOES_ON}")
        traceback.print_exc()
        line = f"rank {self.cluster.rank} of {self.cluster.world}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        abort(f"{line}; more in {self.log.path}; {GOES_ON}")

    def _follow_the_dead(self) -> NoReturn:
        """End this process for the rank that is gone; one of another machine cannot be named."""
        for _ in range(30):
            self.watchdog.follow_the_dead()
            time.sleep(0.1)
        step, logs = self.heartbeat.beat.step, self.log.path.parent
        self.watchdog.abort(f"rank {self.cluster.rank} lost a rank of another machine in step {step}; {logs} may tell more")

    def _is_loss(self, error: BaseException) -> bool:
        text = str(error).lower()
        return self.cluster.world > 1 and (isinstance(error, dist.DistError) or any(words in text for words in LOST))

    def _look(self) -> None:
        """Check, every second, that the folder is still ours, and whether anyone asks to stop."""
        self.heartbeat.beat.stopping = self.stop.reason is not None
        if self.cluster.is_main:
            self.stop.look(self.folder, self.recipe.run)
            owner = self.lock.read()
            if owner is not None and not self.lock.is_held():
                abort(f"run.output {self.folder.path}: another job ({owner.process}) has taken the folder")

    def _record(self, reason: str, speaks: bool) -> None:
        if speaks:
            self.watchdog.claim()
            self.status.fail(reason)
        self.heartbeat.end(reason)

    def _close(self) -> None:
        self.forget()
        self.watchdog.close()
        self.log.close()
        if self.cluster.is_main:
            self.lock.release()


@contextlib.contextmanager
def attempt_of(
    recipe: LearningRecipe, folder: RunFolder, cluster: Cluster, stop: StopRequests, last_step: int
) -> Iterator[Attempt]:
    """Begin a new attempt at the run in ``folder``; whatever ends it is recorded. Collective.

    Raises:
        ConfigError: as ``Attempt.begin``.
    """
    attempt = Attempt(recipe, folder, cluster, stop, last_step)
    attempt.begin()
    try:
        yield attempt
    except BaseException as error:
        attempt.fail(error)
        raise
    attempt.end(attempt.status.values["state"])
