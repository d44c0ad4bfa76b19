"""What students share is what each would have alone: uniforms of drop path, batches, and the teachers' pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.teachers import build_teacher
from mvd_ds.training.step import TeacherTargets
from mvd_ds.training.students.shared import (
    SharedBatches,
    SharedTargets,
    StudentBatches,
    StudentLoader,
    TeacherPass,
    view_of,
)
from shrinking import SCALES, shipped

STUDENTS = ["students.s.model.depth=2", "students.b={}", "masking.masks_per_clip=3"]


def test_a_student_gets_the_uniforms_that_its_own_loader_draws(shrunk: list[str]) -> None:
    recipe = shipped([*shrunk, *STUDENTS])
    small, base = recipe.student("s"), recipe.student("b")
    assert small.drop_path_blocks < base.drop_path_blocks
    shared = ClipLoader(recipe, base.drop_path_blocks, rank=1, world=2)
    for own in (small, base):
        alone = next(ClipLoader(own, own.drop_path_blocks, rank=1, world=2).batches(1, 2))
        seen = next(StudentLoader(shared, view_of(own.drop_path_blocks)).batches(1, 2))
        for name in ("drop_path", "visible", "masked", "sample", "place"):
            assert torch.equal(getattr(seen, name), getattr(alone, name)), name
        assert torch.equal(seen.views[32], alone.views[32])
        assert torch.equal(StudentLoader(shared, view_of(own.drop_path_blocks)).again(1)[0].drop_path, alone.drop_path)
    assert not torch.equal(seen.drop_path[:, 1, : small.drop_path_blocks], view_of(small.drop_path_blocks)(seen).drop_path[:, 1])


class Counted:
    """A loader's batches on a device, with the number of those that were taken."""

    held_bytes = 0

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches, self.taken = batches, 0

    def __next__(self) -> Any:
        self.taken += 1
        return next(self.batches)

    def fetch_ahead(self) -> None:
        """Fetch nothing."""


def test_a_batch_is_taken_once_and_the_teachers_are_asked_once(shrunk: list[str]) -> None:
    recipe = shipped([*shrunk, *STUDENTS, *SCALES])
    calls = []

    def counted(name: str) -> Any:
        teacher = build_teacher(name, recipe.teachers[name], recipe)

        def answer(*inputs: Tensor) -> Any:
            calls.append(name)
            return teacher(*inputs)

        return answer

    teachers = {name: counted(name) for name in recipe.teachers}
    shared = TeacherPass(TeacherTargets(recipe, teachers, torch.float32))
    loader = ClipLoader(recipe, recipe.student("b").drop_path_blocks, rank=0, world=1)
    batches = Counted(loader.batches(0, 2))
    common = SharedBatches(batches, 0)
    alone = {name: recipe.student(name) for name in recipe.students}
    taken = {name: StudentBatches(common, 0, view_of(own.drop_path_blocks)) for name, own in alone.items()}
    targets = {name: SharedTargets(own, shared) for name, own in alone.items()}
    plain = {name: TeacherTargets(own, teachers, torch.float32) for name, own in alone.items()}
    for _ in range(2):
        for name in alone:
            batch = next(taken[name])
            calls.clear()
            expected = plain[name](*plain[name].draw(batch), observed=True)
            asked_alone = len(calls)
            calls.clear()
            found = targets[name](*targets[name].draw(batch), observed=True)
            assert asked_alone == 2 and len(calls) == (2 if name == "s" else 0)
            assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert batches.taken == 2
