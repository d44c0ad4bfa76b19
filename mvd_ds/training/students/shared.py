"""Clips and teachers' passes that several students share: read, brought to the device and computed once for all of them.

Every student sees what it would see alone. Clips and masks are the same for all; the uniforms of drop path, of which a student
takes one for each of its blocks, come as many as the deepest needs, and are dealt out as the loader of each alone would draw
them: the first ``K * blocks`` of a clip's stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.training.device_batch import MaskedBatch
from mvd_ds.training.protocols import Batches, Loader
from mvd_ds.training.step import Drawn, TeacherTargets

View = Callable[[Any], Any]
"""A function that returns a micro batch as one student sees it."""


def view_of(blocks: int) -> View:
    """Return the view of a student that takes ``blocks`` uniforms for every mask."""

    def view(batch: Any) -> Any:
        masks = batch.drop_path.shape[1]
        return batch._replace(drop_path=batch.drop_path.flatten(1)[:, : masks * blocks].unflatten(1, (masks, blocks)))

    return view


class Pass(NamedTuple):
    """A micro batch with its masks, and what the teachers gave of its clips."""

    drawn: Drawn
    given: dict[tuple[str, bool], dict[str, Tensor]]
    """What each gave by (teacher, whether of all tokens)."""


class StudentLoader:
    """The loader of all students as one of them knows it; it ends with the run, not with that student.

    Args:
        loader: draws as many uniforms of drop path as the deepest student takes.
        view: of this student.
    """

    def __init__(self, loader: Loader, view: View) -> None:
        self.loader, self.view = loader, view
        self.steps_per_epoch, self.clips_in_manifest = loader.steps_per_epoch, loader.clips_in_manifest
        self.path_of, self.agree, self.state, self.restore = loader.path_of, loader.agree, loader.state, loader.restore
        self.seen = loader.seen

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Yield the micro batches of steps ``first_step`` to ``last_step - 1``, read for this student alone."""
        return map(self.view, self.loader.batches(first_step, last_step))

    def again(self, step: int) -> list[Any]:
        """Return the micro batches of ``step`` once more, the same to the byte."""
        return [self.view(batch) for batch in self.loader.again(step)]

    def close(self) -> None:
        """Leave the workers to the other students."""


class SharedBatches:
    """The micro batches of a run of several students, each taken from the loader and brought to the device once.

    Args:
        batches: of all students, from the first micro batch that any of them needs.
        first: place of that micro batch, counted over the run from 0.
    """

    def __init__(self, batches: Batches, first: int) -> None:
        self.batches = batches
        self.place, self.current = first - 1, None

    def at(self, place: int) -> Any:
        """Return the micro batch at ``place``: that of the last call, or the next one."""
        if place == self.place + 1:
            self.current, self.place = next(self.batches), place
        assert place == self.place, "the student that is furthest behind takes its turn first"
        return self.current


class StudentBatches:
    """The micro batches of one student, in order, out of those that are shared.

    Attributes:
        place: place of the next one.
    """

    def __init__(self, shared: SharedBatches, first: int, view: View) -> None:
        self.shared, self.place, self.view = shared, first, view

    @property
    def held_bytes(self) -> int:
        """Bytes of the batch that was taken last and of the next one."""
        return self.shared.batches.held_bytes

    def __next__(self) -> Any:
        batch = self.view(self.shared.at(self.place))
        self.place += 1
        return batch

    def fetch_ahead(self) -> None:
        """Begin to bring the next micro batch that no student has had."""
        self.shared.batches.fetch_ahead()


class TeacherPass:
    """The pass of the teachers over the last micro batch, kept for the students that take their turn after the first.

    Args:
        source: asks the teachers, and draws masks where their attention decides.
        inside: the context in which it asks: that of the processes which share the teachers.
    """

    def __init__(
        self, source: TeacherTargets, inside: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    ) -> None:
        self.source, self.inside = source, inside
        self.place: Tensor | None = None
        self.drawn: Drawn | None = None
        self.given: dict[tuple[str, bool], dict[str, Tensor]] = {}

    def draw(self, batch: MaskedBatch) -> Drawn:
        """Return the batch with its masks, and what is known of its targets after that."""
        self._turn_to(batch)
        if self.drawn is None:
            with self.inside():
                self.drawn = self.source.draw(batch)
        drawn, given = self.drawn
        return drawn._replace(drop_path=batch.drop_path), given  # type: ignore[attr-defined]

    def sources(self, teacher: str, batch: MaskedBatch, wanted: Tensor | None) -> dict[str, Tensor]:
        """Return what a teacher gives of all tokens, or of the ``wanted`` ones: the masked tokens of the batch."""
        self._turn_to(batch)
        key = teacher, wanted is None
        if key not in self.given:
            with self.inside():
                self.given[key] = self.source.sources(teacher, batch, wanted)
        return self.given[key]

    def over(self, batch: MaskedBatch) -> Pass:
        """Return the whole pass over a micro batch: all that a student will ask for."""
        drawn = self.draw(batch)
        with self.inside():
            for teacher, wanted, sources in self.source.asked(*drawn):
                self.given[teacher, wanted is None] = sources
        return Pass(drawn, self.given)

    def take(self, one: Pass) -> None:
        """Know what was computed elsewhere of the micro batch that comes next."""
        self.place, self.drawn, self.given = one.drawn[0].place, *one

    def _turn_to(self, batch: MaskedBatch) -> None:
        """Forget the last micro batch if this is another; the tensor of places goes with it through every view."""
        if batch.place is not self.place:
            self.place, self.drawn, self.given = batch.place, None, {}


class SharedTargets(TeacherTargets):
    """The targets of one of several students: its own normalisation and statistics of what the shared pass gives.

    Args:
        recipe: of this student.
        shared: the pass of the teachers.
    """

    def __init__(self, recipe: TrainingRecipe, shared: TeacherPass) -> None:
        super().__init__(recipe, shared.source.teachers, shared.source.dtype, shared.source.masks)
        self.shared = shared

    def draw(self, batch: MaskedBatch) -> Drawn:
        """Return the batch with its masks, which are the same for every student."""
        return self.shared.draw(batch)

    def sources(self, teacher: str, batch: MaskedBatch, wanted: Tensor | None = None) -> dict[str, Tensor]:
        """Return what a teacher gives of all tokens (B, N, D), or of the ``wanted`` ones (B, M), by name of the output."""
        return self.shared.sources(teacher, batch, wanted)
