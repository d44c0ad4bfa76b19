"""The plan of several students: states of all, teachers and clips once."""

from __future__ import annotations

import pytest

from mvd_ds.tools.machine.devices import find_machine
from mvd_ds.tools.plan.plan import Planner

SMALL, BASE = "mvd_small_from_large", "mvd_base_from_large"


def test_a_step_of_two_students_has_their_parts_and_the_teachers_once() -> None:
    machine = find_machine("h200", None, None, None, None)
    together = Planner("mvd_students_from_large", [], machine, 240_436, 65.0).case(32)
    alone = [Planner(name, ["batch.micro=8"], machine, 240_436, 65.0).case(32) for name in (SMALL, BASE)]
    assert together is not None and alone[0] is not None and alone[1] is not None
    times = [case.time for case in (alone[0], alone[1])]
    assert together.time.teachers == times[0].teachers == times[1].teachers
    assert together.time.student == pytest.approx(times[0].student + times[1].student)
    assert together.time.optimizer == pytest.approx(times[0].optimizer + times[1].optimizer)
    memory = [case.memory.device for case in (alone[0], alone[1])]
    own = "weights, gradients, optimizer"
    assert together.memory.device[own] == pytest.approx(memory[0][own] + memory[1][own])
    assert together.memory.device["teacher video"] == memory[0]["teacher video"]
    assert together.memory.device["activations"] == memory[1]["activations"]
    assert together.clip_flops < alone[0].clip_flops + alone[1].clip_flops
    assert together.memory.host["building the networks"] < sum(case.memory.host["building the networks"] for case in (*alone,))


def test_the_plan_says_what_sharing_is_worth() -> None:
    machine = find_machine("h200", None, None, None, None)
    plan = Planner("mvd_students_from_large", [], machine, 240_436, 1.0).plan(32)
    (note,) = [note for note in plan.notes if "one pass of the teachers" in note]
    assert "small 0." in note and "base 0." in note and "0.56 of the operations" in note


def test_averages_are_counted_for_the_students_that_keep_one() -> None:
    machine, part = find_machine("h200", None, None, None, None), "moving average"

    def average(*keep: str) -> float:
        settings = [f"students.{name}.optimizer.ema_decay=0.99" for name in keep]
        case = Planner("mvd_students_from_large", settings, machine, 240_436, 65.0).case(32)
        assert case is not None
        return case.memory.device.get(part, 0.0)

    assert average() == 0 < average("small") < average("base")
    assert average("small", "base") == pytest.approx(average("small") + average("base"))


def test_students_that_own_gpus_are_planned_where_most_is_held_and_done() -> None:
    """Two on halves of the GPUs: neither holds the other's states, the larger is the slower, and all GPUs ask the teachers."""
    machine, ranks = find_machine("h200", None, None, None, None), ["students.small.ranks=0-15", "students.base.ranks=16-31"]
    shared = Planner("mvd_students_from_large", [], machine, 240_436, 65.0).case(32)
    planner = Planner("mvd_students_from_large", ranks, machine, 240_436, 65.0)
    owned, base = planner.case(32), Planner(BASE, ["batch.micro=8"], machine, 240_436, 65.0).case(16)
    assert owned is not None and shared is not None and base is not None
    assert owned.time.teachers == shared.time.teachers and owned.time.student == base.time.student
    assert owned.memory.device == base.memory.device
    assert planner.case(16) is None
