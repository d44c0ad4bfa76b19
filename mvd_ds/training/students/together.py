"""The loop of several students: each runs that of a training of its own, and pauses after every micro batch for the others."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def train_together(members: list[Member], flops_per_clip: Callable[[tuple[str, ...]], float]) -> dict[str, Stopped | Diverged]:
    """Train all ``members``, the one that is furthest behind first, and return how each ended. Collective.

    So students in step share every micro batch. One that is behind, for it is new or its last save was cut off, catches up alone
    while the others wait, and then is what it would have been. One whose numbers end it leaves the others as they are. What each
    reports of speed is of the students that learn beside it: no operations of one that waits or is done, and no time of waiting.

    Args:
        members: the students.
        flops_per_clip: returns the operations of a step of these students, by name, that learn from the same clips.

    Raises:
        ConfigError: on every rank, for what ends them all, a full disk for example.
    """
    steps = {member.name: member.training.steps(member.first_step, member.last_step, member.batches) for member in members}
    behind = {member.name: member.batches for member in members}
    trainings = {member.name: member.training for member in members}
    ended: dict[str, Stopped | Diverged] = {}
    while behind:
        name = min(behind, key=lambda one: behind[one].place)
        # Those that share its micro batch are about to take it, or have just taken it.
        beside = tuple(one for one in behind if behind[one].place <= behind[name].place + 1)
        trainings[name].reporter.flops_per_clip = flops_per_clip(beside)
        started = time.monotonic()
        try:
            next(steps[name])
        except StopIteration as end:
            ended[name] = end.value
        except Diverged as fault:
            ended[name] = fault
            trainings[name].attempt.fail(fault)
            if len(behind) > 1 and trainings[name].cluster.is_main:
                log_error(f"student {name} ends: {fault}; the others go on")
        seconds = time.monotonic() - started
        for waiting in behind.keys() - set(beside):
            trainings[waiting].reporter.watch.leave_out(seconds)
        if name in ended:
            del behind[name]
    return ended
