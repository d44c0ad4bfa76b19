"""The loop of several students: each runs that of a training of its own, and pauses after every micro batch for the others."""

from __future__ import annotations

from typing import NamedTuple

from mvd_ds.training.ending import Diverged, log_error
from mvd_ds.training.loop import Stopped, Training
from mvd_ds.training.students.shared import StudentBatches


class Member(NamedTuple):
    """One of several students, ready to be trained."""

    name: str
    training: Training
    batches: StudentBatches
    first_step: int
    last_step: int


def train_together(members: list[Member]) -> dict[str, Stopped | Diverged]:
    """Train all ``members``, the one that is furthest behind first, and return how each ended. Collective.

    So students in step share every micro batch. One that is behind, for it is new or its last save was cut off, catches up alone
    while the others wait, and then is what it would have been. One whose numbers end it leaves the others as they are.

    Raises:
        ConfigError: on every rank, for what ends them all, a full disk for example.
    """
    steps = {member.name: member.training.steps(member.first_step, member.last_step, member.batches) for member in members}
    behind = {member.name: member.batches for member in members}
    trainings = {member.name: member.training for member in members}
    ended: dict[str, Stopped | Diverged] = {}
    while behind:
        name = min(behind, key=lambda one: behind[one].place)
        try:
            next(steps[name])
        except StopIteration as end:
            ended[name] = end.value
        except Diverged as fault:
            ended[name] = fault
            trainings[name].attempt.fail(fault)
            if len(behind) > 1 and trainings[name].cluster.is_main:
                log_error(f"student {name} ends: {fault}; the others go on")
        if name in ended:
            del behind[name]
    return ended
