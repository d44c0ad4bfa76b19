"""The normalisation of clips on the device, and the sources of the targets that a student predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from mvd_ds.config import ATTENTION, IMAGENET_MEAN, IMAGENET_STD, TrainingRecipe
from mvd_ds.objectives.targets import Places, Target, build_targets, gather_masked
from mvd_ds.objectives.targets.pixels import PixelTarget
from mvd_ds.training.device_batch import MaskedBatch
from mvd_ds.training.device_crops import OwnViews


def to_unit(clip: Tensor) -> Tensor:
    """Return uint8 (B, C, T, H, W) as float32 in [0, 1]."""
    return clip.float() / 255


def normalise(unit: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, C, T, H, W) in [0, 1] normalised with ImageNet's mean and deviation, in ``dtype``."""
    return ((unit - _per_channel(unit, IMAGENET_MEAN)) / _per_channel(unit, IMAGENET_STD)).to(dtype)


def _per_channel(clip: Tensor, values: tuple[float, float, float]) -> Tensor:
    """Return ``values`` as (1, 3, 1, 1, 1), filled on the device: a copy from the host would wait for what is queued."""
    return torch.cat([clip.new_full((1,), value) for value in values]).view(1, 3, 1, 1, 1)


FrozenTeacher = Callable[..., Tensor | dict[str, Tensor]]
"""A teacher as a step calls it: (clip) or (clip, wanted tokens) -> one tensor, or several by name of the output."""


def label_targets(batch: MaskedBatch, terms: Mapping[str, Target]) -> dict[str, Tensor]:
    """Return the class of every sample, int64 (B*K,), -1 where it has none, if classes are among the targets."""
    if "labels" not in terms:
        return {}
    return {"labels": batch.labels[:, 0].repeat_interleave(batch.masked.shape[1])}


Drawn = tuple[MaskedBatch, dict[str, dict[str, Tensor]]]
"""A batch with its masks, and what a teacher gave while they were drawn, by name of the output, by name of the teacher."""


class TargetSource(Protocol):
    """A source of a batch's masks and of its targets by name, (B*K, M, D) fp32, of masked tokens only."""

    terms: dict[str, Target]

    def draw(self, batch: MaskedBatch) -> Drawn:
        """Return the batch with its masks, and what is known of its targets after that."""
        ...

    def __call__(
        self, batch: MaskedBatch, given: Mapping[str, dict[str, Tensor]] | None = None, observed: bool = False
    ) -> dict[str, Tensor]: ...


class DrawsMasks(Protocol):
    """Whatever draws masks on the device; it is made in the data room, which this room does not import."""

    @property
    def teacher(self) -> str | None:
        """Name of the teacher whose attention says what is hidden; None: the clip itself does."""

    def __call__(self, batch: Any, attention: Tensor | None = None) -> Any: ...


def require_drawn(batch: MaskedBatch) -> MaskedBatch:
    """Return a batch that has its masks.

    Raises:
        ValueError: if its masks are yet to be drawn.
    """
    if not batch.masked.shape[-1] and not batch.visible.shape[-1]:
        raise ValueError("the masks of this batch are drawn on the device, and there is nothing that draws them")
    return batch


class PixelTargets:
    """The targets of stage one: the pixels of every masked patch.

    Args:
        masks: draws the masks of batches that come without; None: they come with them.
    """

    def __init__(self, recipe: TrainingRecipe, masks: DrawsMasks | None = None) -> None:
        self.masks = masks
        self.size_px = recipe.data.clip.size_px
        self.terms = build_targets(recipe)

    def draw(self, batch: MaskedBatch) -> Drawn:
        """Return the batch with its masks."""
        return require_drawn(batch) if self.masks is None else self.masks(batch), {}

    def __call__(
        self, batch: MaskedBatch, given: Mapping[str, dict[str, Tensor]] | None = None, observed: bool = False
    ) -> dict[str, Tensor]:
        """Return the targets (B*K, M, D) of a batch with masks."""
        if "pixels" not in self.terms:  # objective language predicts nothing
            return label_targets(batch, self.terms)
        clip = to_unit(batch.views[self.size_px])
        pixels = self.terms["pixels"]
        if isinstance(pixels, PixelTarget) and pixels.takes_standardised:
            # MAE takes its targets from the normalised image; VideoMAE undoes the normalisation first.
            clip = normalise(clip, torch.float32)
        return {"pixels": gather_masked(pixels(clip), batch.masked)} | label_targets(batch, self.terms)


class TeacherTargets:
    """The targets of stage two: features of every frozen teacher, one pass per clip whatever the number of masks."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        teachers: Mapping[str, FrozenTeacher],
        dtype: torch.dtype,
        masks: DrawsMasks | None = None,
    ) -> None:
        """Keep the teachers.

        Args:
            recipe: the training run.
            teachers: by name, (B, C, T, H, W) and the wanted tokens, if not all -> features (B, N or M, D), or a dict of what
                they give by name of the output.
            dtype: precision of the clips that they are given.
            masks: draws the masks of batches that come without; None: they come with them.
        """
        self.masks, self.own_views = masks, OwnViews(recipe)
        self.settings = recipe.teachers
        self.teachers = teachers
        self.views = {name: recipe.view_of(settings) for name, settings in recipe.teachers.items()}
        self.dtype = dtype
        self.terms = build_targets(recipe)

    @torch.no_grad()
    def draw(self, batch: MaskedBatch) -> Drawn:
        """Return the batch with its masks, and all that the teacher gave whose attention they were drawn from."""
        if self.masks is None:
            return require_drawn(batch), {}
        if self.masks.teacher is None:
            return self.masks(batch), {}
        given = self.sources(self.masks.teacher, batch)
        return self.masks(batch, self.own_views.scores(given[ATTENTION], batch)), {self.masks.teacher: given}

    @torch.no_grad()
    def __call__(
        self, batch: MaskedBatch, given: Mapping[str, dict[str, Tensor]] | None = None, observed: bool = False
    ) -> dict[str, Tensor]:
        """Return the targets (B*K, M, D) of a batch with masks; teachers that have ``given`` already are not asked again.

        With ``observed`` the statistics of targets collect from what the teachers give.
        """
        targets = {}
        for _, wanted, sources in self.asked(batch, given):
            for name in [name for name in sources if name in self.terms]:
                target = self.terms[name](sources[name])
                if observed:
                    self.terms[name].observe(sources[name], target)
                chosen = target if wanted is not None else self._at(name, target, batch)
                targets[name] = chosen.float() if chosen.is_floating_point() else chosen
        targets |= label_targets(batch, self.terms)
        return {name: targets[name] for name in self.terms}

    def asked(
        self, batch: MaskedBatch, given: Mapping[str, dict[str, Tensor]] | None = None
    ) -> Iterator[tuple[str, Tensor | None, dict[str, Tensor]]]:
        """Yield each teacher, the only tokens (B, M) that it is asked of, None for all, and what it gives of them."""
        for teacher in self.settings:
            known = (given or {}).get(teacher)
            wanted = self._wanted(teacher, batch) if known is None else None
            yield teacher, wanted, self.sources(teacher, batch, wanted) if known is None else known

    @torch.no_grad()
    def sources(self, teacher: str, batch: MaskedBatch, wanted: Tensor | None = None) -> dict[str, Tensor]:
        """Return what a teacher gives of all tokens (B, N, D), or of the ``wanted`` ones (B, M), by name of the output."""
        view = normalise(to_unit(batch.views[self.views[teacher]]), self.dtype)
        given = self.teachers[teacher](view) if wanted is None else self.teachers[teacher](view, wanted)
        return given if isinstance(given, dict) else {teacher: given}

    def _wanted(self, teacher: str, batch: MaskedBatch) -> Tensor | None:
        """Return the only tokens (B, M) of which anything is read of a teacher, or None for all.

        Several masks hide next to everything between them.
        """
        targets = [self.terms[teacher + suffix] for suffix in self.settings[teacher].targets]
        kinds = ("masked", "classed")
        if batch.masked.shape[1] > 1 or not all(target.is_tokenwise and target.head.tokens in kinds for target in targets):
            return None
        return batch.masked[:, 0]

    def _at(self, name: str, target: Tensor, batch: MaskedBatch) -> Tensor:
        """Return the targets (B*K, P, D) of the tokens that are predicted, out of those of all tokens (B, N, D).

        A summary (B, D) is that of every mask of its clip, (B*K, D).
        """
        if self.terms[name].head.tokens == "summary":
            return target.repeat_interleave(batch.masked.shape[1], dim=0)
        if self.terms[name].head.tokens == "classed":
            summaries = target[:, -1:].repeat_interleave(batch.masked.shape[1], dim=0)
            return torch.cat((gather_masked(target, batch.masked), summaries), dim=1)
        return gather_masked(target, Places(batch.visible, batch.masked).of(self.terms[name].head.tokens))
