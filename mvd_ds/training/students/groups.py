"""The loop of students that own ranks: all processes ask the teachers, and every student learns on its own.

A round is one micro batch of every process: each asks the teachers about its clips, all hand over what they found, and every
student takes the turns that this makes possible, side by side with those of other processes. What needs all of them, requests to
stop and what is known of broken videos, they agree on between steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mvd_ds.config import ConfigError
from mvd_ds.training.cluster import Cluster, fail_alone
from mvd_ds.training.ending import Diverged, log_error
from mvd_ds.training.liveness.attempt import Attempt
from mvd_ds.training.loop import Stopped, Training
from mvd_ds.training.prefetch import DeviceBatches
from mvd_ds.training.protocols import Loader
from mvd_ds.training.students.attempt import CommonStop
from mvd_ds.training.students.handing import HandOver, News, Owner
from mvd_ds.training.students.shared import Pass, TeacherPass, View


class GroupStop(CommonStop):
    """Requests to stop that all processes agree on before a step, whose students all get that answer."""

    reason: str | None = None

    def ask(self, cluster: Cluster) -> str | None:
        """Return the reason to stop, None for none, on all ranks of the run. Collective."""
        self.reason = self.stop.agreed(cluster)
        return self.reason

    def agreed_at(self, step: int, cluster: Cluster) -> str | None:
        """Return what was answered last; nobody is asked."""
        return self.reason


class Agreed:
    """The knowledge of broken videos that the processes of a run have agreed on, which every student saves.

    Args:
        loader: of this process's share of the clips.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader, self.state = loader, loader.state()

    def agree(self, done: int, gather: Callable[[Any], list[Any]]) -> None:
        """Agree after ``done`` steps. Collective over all ranks of the run."""
        self.loader.agree(done, gather)
        self.state = self.loader.state()


class OwnLoader:
    """The loader of all students as one knows it that owns ranks: it reads by itself what is asked for out of turn.

    Args:
        loader: of this process's share of a run on the student's ranks alone.
        agreed: what is known of broken videos.
        view: of this student.
    """

    def __init__(self, loader: Loader, agreed: Agreed, view: View) -> None:
        self.loader, self.agreed, self.view = loader, agreed, view
        self.steps_per_epoch, self.clips_in_manifest = loader.steps_per_epoch, loader.clips_in_manifest
        self.path_of, self.seen = loader.path_of, loader.seen
        self.restored: dict[str, Any] = {}

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Yield the micro batches of steps ``first_step`` to ``last_step - 1``."""
        return map(self.view, self.loader.batches(first_step, last_step))

    def again(self, step: int) -> list[Any]:
        """Return the micro batches of ``step`` once more, the same to the byte."""
        return [self.view(batch) for batch in self.loader.again(step)]

    def agree(self, done: int, gather: Callable[[Any], list[Any]]) -> None:
        """Leave it to all processes, which agree between steps."""

    def state(self) -> dict[str, Any]:
        """Return what was agreed on last."""
        return self.agreed.state

    def restore(self, state: dict[str, Any]) -> None:
        """Keep the state of a checkpoint: that of the student that is furthest is taken by all processes."""
        self.restored = state

    def close(self) -> None:
        """Stop what reads for this student alone; the workers are left to the others."""
        self.loader.close()


class OwnBatches:
    """The micro batches of one student on this process, as they are handed over.

    Args:
        shared: what its objective asks.
        view: of this student.
    """

    def __init__(self, shared: TeacherPass, view: View) -> None:
        self.shared, self.view = shared, view
        self.waiting: deque[Pass] = deque()

    @property
    def held_bytes(self) -> int:
        """Bytes of the clips that wait."""
        return sum(clip.nbytes for one in self.waiting for clip in one.drawn[0].views.values())

    def __next__(self) -> Any:
        one = self.waiting.popleft()
        self.shared.take(one)
        return self.view(one.drawn[0])

    def fetch_ahead(self) -> None:
        """Fetch nothing: the next one comes when it is handed over."""


class OwnMember(NamedTuple):
    """A student of this process, ready to be trained.

    ``inside`` is the context in which its processes are by themselves.
    """

    name: str
    training: Training
    batches: OwnBatches
    last_step: int
    steps: Iterator[None]
    inside: Callable[[], AbstractContextManager[Any]]


@dataclass
class Rounds:
    """The loop of all students on one process; ``run`` is called on all of them."""

    attempt: Attempt
    batches: DeviceBatches
    """Micro batches of this process, from the first step that any student needs."""
    per_round: int
    """Rounds of a step."""
    shared: TeacherPass
    agreed: Agreed
    stop: GroupStop
    hand_over: HandOver
    owners: dict[str, Owner]
    """All students of the run by name, in its order."""
    members: dict[str, OwnMember]
    """Those of this process."""
    flops_per_clip: Callable[[tuple[str, ...]], float]
    """Returns the operations of a step of students, by name."""
    ended: dict[str, Stopped | Diverged] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    """Students that all processes know to be at their end."""
    fault: str | None = None

    def run(self, first_step: int, last_step: int) -> dict[str, Stopped | Diverged]:
        """Train all students from ``first_step`` on, and return how those of this process ended. Collective.

        Raises:
            ConfigError: on every rank, for what ends them all.
        """
        for step in range(first_step, last_step + 1):
            reason = self._agree(step, first_step)
            numbers = range(step * self._per_step, (step + 1) * self._per_step, self.attempt.cluster.world)
            learning = any(owner.end > numbers.start for name, owner in self.owners.items() if name not in self.over)
            if reason is not None or not learning:
                break
            for number in numbers:
                self._round(step, number)
        for member in self.members.values():
            while member.name not in self.ended and self.fault is None:
                self._turn(member)
        self._hear()
        self._tell()
        return self.ended

    @property
    def _per_step(self) -> int:
        """Micro batches of a step on all processes."""
        return self.per_round * self.attempt.cluster.world

    def _agree(self, step: int, first_step: int) -> str | None:
        """Return the reason to stop before ``step``; students that are at their end end here. Collective."""
        attempt, settings = self.attempt, self.attempt.recipe.run
        reason = self.stop.ask(attempt.cluster)
        ends = any(owner.end == step * self._per_step for owner in self.owners.values())
        told = any(every and step % every == 0 for every in (settings.log_every_steps, settings.save_every_steps))
        if reason is not None or ends or told or step <= first_step + 1:
            self.agreed.agree(step, attempt.cluster.gather)
            self._tell()
        for member in self.members.values():
            if member.last_step <= step and member.name not in self.ended and self.fault is None:
                self._turn(member)
        return reason

    def _tell(self) -> None:
        """Tell rank 0 where every student stands, and how long a save of them takes. Collective."""
        trainings = [member.training for member in self.members.values()]
        values = [training.attempt.status.values for training in trainings if training.cluster.is_main]
        stands = [(each["step"], each["last_step"]) for each in values]
        saves = sum(training.checkpoints.last_save_seconds or 0.0 for training in trainings)
        everyone = self.attempt.cluster.gather((stands, saves))
        if not self.attempt.cluster.is_main:
            return
        seconds = max(save for _, save in everyone)
        self.attempt.stop.save_seconds = lambda: seconds
        steps = [stand for stands, _ in everyone for stand in stands]
        left = [step for step, last in steps if step < last]
        status = self.attempt.status
        status.write(status.values["state"], min(left) if left else max(step for step, _ in steps))

    def _round(self, step: int, number: int) -> None:
        """Ask the teachers about one micro batch, hand it over, and take the turns of this process. Collective."""
        started, world = time.monotonic(), self.attempt.cluster.world
        self.attempt.heartbeat.at("waiting for a batch", step + 1)
        try:
            batch = next(self.batches)
        except (ConfigError, RuntimeError, OSError) as error:
            fail_alone(self.attempt.cluster, f"the loader ended: {error}")
        waited = time.monotonic() - started
        self.attempt.heartbeat.at("asking the teachers", step + 1)
        self._hear()
        beside = {n: owner for n, owner in self.owners.items() if owner.first <= number < owner.end and n not in self.over}
        handed = self.hand_over(number, self.shared.over(batch), beside.values())
        flops = self.flops_per_clip(tuple(beside))
        for name, member in self.members.items():
            if name not in beside:
                continue
            reporter, owner = member.training.reporter, self.owners[name]
            # Operations of all processes of the run, as the reporter divides by those of the student.
            reporter.flops_per_clip = flops * len(owner.ranks) / world
            reporter.watch.waiting(waited)
            member.batches.waiting += [one for n, one in handed.items() if owner.rank_of(n) == self.attempt.cluster.rank]
            # Its processes take a turn together, once each has a micro batch; one may have the next already.
            for _ in range(owner.turns(number, world)):
                if name not in self.ended and self.fault is None:
                    self._turn(member)
        self.batches.fetch_ahead()
        for name in self.members.keys() - beside.keys() - self.ended.keys():
            self.members[name].training.reporter.watch.leave_out(time.monotonic() - started)

    def _turn(self, member: OwnMember) -> None:
        """Let a student of this process learn from one micro batch, or come to its end. Collective over its processes."""
        training = member.training
        try:
            with member.inside():
                next(member.steps)
        except StopIteration as end:
            self.ended[member.name] = end.value
        except Diverged as fault:
            self.ended[member.name] = fault
            training.attempt.fail(fault)
            if len(self.owners) > 1 and training.cluster.is_main:
                log_error(f"student {member.name} ends: {fault}; the others go on")
        except ConfigError as fault:
            self.fault = str(fault)

    def _hear(self) -> None:
        """Hear from all processes which students are at their end. Collective.

        Raises:
            ConfigError: on every rank, for what ends them all.
        """
        news = self.hand_over.news(News(frozenset(self.ended), self.fault))
        faults = dict.fromkeys(each.fault for each in news if each.fault is not None)
        if faults:
            raise ConfigError("\n".join(map(str, faults)))
        self.over.update(*(each.over for each in news))
