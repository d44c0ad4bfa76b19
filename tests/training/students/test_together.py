"""The loop of several students: turns, catching up, and one that ends by its own numbers."""

from __future__ import annotations

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import torch

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ending import Diverged
from mvd_ds.training.loop import Stopped
from mvd_ds.training.students.attempt import CommonStop, StudentStop
from mvd_ds.training.students.shared import SharedBatches, StudentBatches
from mvd_ds.training.students.together import Member, train_together

ALONE = Cluster(0, 1, torch.device("cpu"))


class Numbers:
    """Micro batches that are their own places."""

    held_bytes = 0

    def __init__(self, first: int) -> None:
        self.place = first - 1

    def __next__(self) -> int:
        self.place += 1
        return self.place

    def fetch_ahead(self) -> None:
        """Fetch nothing."""


class Steps:
    """A training that notes its turns, and may end by its own numbers."""

    def __init__(self, name: str, turns: list[tuple[str, int]], diverges_at: int | None = None) -> None:
        self.name, self.turns, self.diverges_at, self.cluster = name, turns, diverges_at, ALONE
        self.failures: list[str] = []
        self.attempt = SimpleNamespace(fail=lambda fault: self.failures.append(str(fault)))
        self.left_out: list[float] = []
        self.reporter = SimpleNamespace(watch=SimpleNamespace(leave_out=self.left_out.append))
        self.flops: list[float] = []

    def steps(self, first: int, last: int, batches: StudentBatches) -> Generator[None, None, Stopped]:
        for step in range(first, last):
            for _ in range(2):
                self.turns.append((self.name, next(batches)))
                self.flops.append(self.reporter.flops_per_clip)
                yield
            if step == self.diverges_at:
                raise Diverged("the loss is nan")
        return Stopped(last, None)


def trained(spans: dict[str, tuple[int, int]], **diverges: int) -> tuple[list[tuple[str, int]], dict[str, Any], dict[str, Steps]]:
    turns: list[tuple[str, int]] = []
    first = min(start for start, _ in spans.values())
    shared = SharedBatches(Numbers(2 * first), 2 * first)
    made = {name: Steps(name, turns, diverges.get(name)) for name in spans}
    members = [
        Member(name, made[name], StudentBatches(shared, 2 * start, lambda batch: batch), start, end)  # type: ignore[arg-type]
        for name, (start, end) in spans.items()
    ]
    return turns, train_together(members, lambda names: sum({"s": 1, "b": 10}[name] for name in names)), made


def test_students_take_turns_and_one_that_is_behind_catches_up_alone() -> None:
    turns, ended, _ = trained({"s": (2, 4), "b": (1, 3)})
    assert turns == [("b", 2), ("b", 3), ("s", 4), ("b", 4), ("s", 5), ("b", 5), ("s", 6), ("s", 7)]
    assert ended == {"s": Stopped(4, None), "b": Stopped(3, None)}


def test_speed_is_that_of_the_students_that_learn_side_by_side() -> None:
    """Operations of one that waits, or is done, would make the utilisation of the other too high; its wait its own too low.

    Both changes show within a micro batch.
    """
    _, _, made = trained({"s": (3, 6), "b": (0, 4)})
    assert made["b"].flops == [10] * 5 + [11] * 3 and made["s"].flops == [11] * 3 + [1] * 3
    assert len(made["s"].left_out) == 5 and made["b"].left_out == []


def test_one_that_diverges_leaves_the_other_as_it_is() -> None:
    turns, ended, made = trained({"s": (0, 3), "b": (0, 3)}, s=0)
    assert isinstance(ended["s"], Diverged) and ended["b"] == Stopped(3, None)
    assert [place for name, place in turns if name == "b"] == list(range(6))
    assert made["s"].failures == ["the loss is nan"] and not made["b"].failures


def test_all_students_get_the_same_answer_in_a_step() -> None:
    asked = []

    def agreed(cluster: Cluster) -> str | None:
        asked.append(cluster.rank)
        return "the file is there" if len(asked) > 2 else None

    common = CommonStop(SimpleNamespace(agreed=agreed))  # type: ignore[arg-type]
    one, other = StudentStop(common), StudentStop(common)
    one.next_step = other.next_step = 5
    answers = [stop.agreed(ALONE) for _ in range(3) for stop in (one, other)]
    assert answers == [None, None, None, None, "the file is there", "the file is there"] and len(asked) == 3
