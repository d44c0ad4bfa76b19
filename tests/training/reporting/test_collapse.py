"""The watch of numbers that fall when features collapse."""

from __future__ import annotations

from mvd_ds.training.reporting.collapse import CollapseWatch


def test_a_number_that_falls_is_told_once_until_it_has_risen_again() -> None:
    watch = CollapseWatch(0.1)
    rank = "student/effective_rank"
    assert [len(watch.look(step, {rank: value})) for step, value in enumerate((20.0, 50.0, 5.1, 4.9, 3.0, 9.0, 2.0))] == [
        *(0, 0, 0, 1, 0, 0, 1)
    ]
    (line,) = CollapseWatch(0.5).look(7, {"target/variance_own": 0.0}) or ["none"]
    assert line == "none", "what never was more has not fallen"


def test_assignments_collapse_to_one_prototype_or_to_none() -> None:
    watch = CollapseWatch(0.5)
    assert not watch.look(1, {"prototypes/own_patch_usage": 0.9, "prototypes/own_class_entropy": 0.4, "loss/total": 9.0})
    lines = watch.look(2, {"prototypes/own_patch_usage": 0.1, "prototypes/own_class_entropy": 0.99, "loss/total": 0.1})
    assert len(lines) == 2 and "1 - prototypes/own_class_entropy is 0.01" in lines[1]
    assert not CollapseWatch(0.0).look(2, {"student/effective_rank": 0.0})
