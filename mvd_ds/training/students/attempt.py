"""The part that one of several students has in a start of their run: its folder, status and signs of life."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from mvd_ds.config import LearningRecipe
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.liveness.attempt import Attempt
from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.run_folder import RunFolder, Status


class CommonStop:
    """Requests to stop as several students ask for them: what was answered in a step is answered to all in that step.

    Args:
        stop: the requests that reach this process.
    """

    def __init__(self, stop: StopRequests) -> None:
        self.stop = stop
        self.answer: tuple[int, str | None] = -1, None

    def agreed_at(self, step: int, cluster: Cluster) -> str | None:
        """Return the reason to stop after ``step``, None for none, on all ranks. Collective."""
        if self.answer[0] != step:
            self.answer = step, self.stop.agreed(cluster)
        return self.answer[1]


class StudentStop(StopRequests):
    """The requests to stop as the loop of one student knows them: it asks before its first step and after every step.

    Attributes:
        next_step: step that it asks for next; set before the loop begins.
    """

    def __init__(self, common: CommonStop) -> None:
        super().__init__()
        self.common, self.next_step = common, 0

    def agreed(self, cluster: Cluster) -> str | None:
        """Return the reason to stop at the end of this step, None for none, on all ranks. Collective."""
        step, self.next_step = self.next_step, self.next_step + 1
        return self.common.agreed_at(step, cluster)


class StudentHeartbeat(Heartbeat):
    """Signs of life in a student's folder that are signs of the run of all students, too."""

    def __init__(self, folder: RunFolder, rank: int, attempt: int, common: Heartbeat) -> None:
        super().__init__(folder, rank, attempt)
        self.common = common
        common.also.append(self)

    def at(self, doing: str, step: int | None = None, tell: bool = False) -> None:
        """Note what this student begins, here and for all students."""
        super().at(doing, step, tell)
        self.common.at(f"{doing}, {self.path.parents[2].name}", step, tell)


class StudentStatus(Status):
    """The ``status.json`` of a student, which that of all follows: its step is that of the student furthest behind.

    Args:
        common: of all students; None: others tell it where they are.
        every: the status of each, to which this one is added.
    """

    def __init__(self, folder: RunFolder, last_step: int, common: Status | None, every: list[Status]) -> None:
        super().__init__(folder, last_step)
        self.common, self.every = common, every
        every.append(self)

    def write(self, state: str, step: int, **more: Any) -> None:
        """Record ``state`` at ``step`` here, and the step for all students."""
        super().write(state, step, **more)
        if self.common is None:
            return
        values = [status.values for status in self.every]
        left = [each["step"] for each in values if each["step"] < each["last_step"]]
        self.common.write(self.common.values["state"], min(left) if left else max(each["step"] for each in values))


class StudentAttempt(Attempt):
    """One start of a student's run within that of all students, whose log and watch are its own, too.

    Args:
        name: of the student.
        common: the start of the run of all.
        stop: asks for requests to stop, once for all students.
        cluster: the processes of a student that may own some; None: those of all.
    """

    def __init__(
        self,
        name: str,
        recipe: LearningRecipe,
        folder: RunFolder,
        last_step: int,
        common: Attempt,
        stop: CommonStop,
        cluster: Cluster | None = None,
    ) -> None:
        super().__init__(recipe, folder, cluster or common.cluster, StudentStop(stop), last_step)
        self.name, self.common, self.is_over = name, common, False
        self.followed = common.status if cluster is None else None

    def begin(self) -> None:
        """Take the student's folder. Collective.

        Raises:
            ConfigError: on every rank, if another job works in the folder, or not all ranks see it.
        """
        self.take_folder()
        self.status = StudentStatus(self.folder, self.last_step, self.followed, self.common.parts)
        self.status.values["together"] = os.path.relpath(self.common.folder.path, self.folder.path)
        with self.cluster.together():
            self.heartbeat = StudentHeartbeat(self.folder, self.cluster.rank, self.number, self.common.heartbeat)
            if self.cluster.is_main:
                self.status.write("running", self.status.values["step"])
        self.heartbeat.write()

    def preempted(self, step: int, reason: str) -> None:
        """Record that the run was asked to stop, saved ``step``, and goes on by the same command."""
        if self.cluster.is_main:
            self.status.write("preempted", step, reason=reason)
            say(f"student {self.name} stopped at step {step} of {self.last_step}: {reason}; the same command goes on from there")

    def end(self, state: str) -> None:
        """End well: write ``state`` and release the folder."""
        if self.is_over:
            return
        self.is_over = True
        self.heartbeat.end(state)
        self.common.heartbeat.also.remove(self.heartbeat)
        if self.cluster.is_main:
            self.lock.release()

    def fail(self, error: BaseException) -> None:
        """Record the end of this student, and release its folder; the process goes on, or the run of all ends it."""
        reason = str(error) or type(error).__name__
        if self.cluster.is_main and not self.is_over:
            with contextlib.suppress(OSError):
                self.status.fail(reason)
        self.end(reason)
