"""The start of several students that stand at unlike steps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from mvd_ds.data.batch import ClipBatch
from mvd_ds.runs.students import _members
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.loop import Stopped
from mvd_ds.training.students.attempt import CommonStop, StudentStop
from mvd_ds.training.students.together import train_together
from shrinking import shipped

ALONE = Cluster(0, 1, torch.device("cpu"))


class Places:
    """A loader whose batches know the step that they are of."""

    def batches(self, first: int, last: int) -> Iterator[ClipBatch]:
        none = torch.zeros(1)
        for step in range(first, last):
            yield ClipBatch({}, none.bool(), none, none, torch.zeros(1, 1, 9), none, none, torch.tensor([step]), [])


class Steps:
    """A training that notes the steps of its batches."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.reporter = SimpleNamespace(watch=SimpleNamespace(leave_out=lambda seconds: None))

    def steps(self, first: int, last: int, batches: Any) -> Generator[None, None, Stopped]:
        for _ in range(first, last):
            self.seen.append(int(next(batches).place))
            yield
        return Stopped(last, None)


def test_one_killed_between_its_last_step_and_its_export_does_not_hold_up_the_others(shrunk: list[str]) -> None:
    """It ends before the others and is exported with them, so a kill in between leaves it at its end, far behind."""
    recipe = shipped([*shrunk, "students.s={}", "students.b={}", "batch.micro=4", "batch.global=4"])
    runs: dict[str, Any] = {
        name: SimpleNamespace(
            trainer=SimpleNamespace(recipe=recipe.student(name)),
            attempt=SimpleNamespace(stop=StudentStop(CommonStop(SimpleNamespace(agreed=lambda _: None)))),  # type: ignore[arg-type]
            training=Steps(),
            first_step=first,
            end=end,
        )
        for name, (first, end) in {"s": (2, 2), "b": (5, 8)}.items()
    }
    ended = train_together(_members(recipe, Places(), runs, ALONE), len)  # type: ignore[arg-type]
    assert ended == {"s": Stopped(2, None), "b": Stopped(8, None)}
    assert runs["s"].training.seen == [] and runs["b"].training.seen == [5, 6, 7]
