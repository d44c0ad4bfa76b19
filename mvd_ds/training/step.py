"""The normalisation of clips on the device, and the sources of the targets that a student predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, TrainingRecipe
from mvd_ds.objectives.targets import Target, build_targets, gather_masked
from mvd_ds.objectives.targets.pixels import PixelTarget
from mvd_ds.training.device_batch import MaskedBatch


def to_unit(clip: Tensor) -> Tensor:
    """Return uint8 (B, C, T, H, W) as float32 in [0, 1]."""
    return clip.float() / 255


def normalise(unit: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, C, T, H, W) in [0, 1] normalised with ImageNet's mean and deviation, in ``dtype``."""
    return ((unit - _per_channel(unit, IMAGENET_MEAN)) / _per_channel(unit, IMAGENET_STD)).to(dtype)


def _per_channel(clip: Tensor, values: tuple[float, float, float]) -> Tensor:
    """Return ``values`` as (1, 3, 1, 1, 1), filled on the device: a copy from the host would wait for what is queued."""
    return torch.cat([clip.new_full((1,), value) for value in values]).view(1, 3, 1, 1, 1)


class TargetSource(Protocol):
    """A source of a batch's targets by name, (B*K, M, D) fp32, of masked tokens only."""

    terms: dict[str, Target]

    def __call__(self, batch: MaskedBatch) -> dict[str, Tensor]: ...


class PixelTargets:
    """The targets of stage one: the pixels of every masked patch."""

    def __init__(self, recipe: TrainingRecipe) -> None:
        self.size_px = recipe.data.clip.size_px
        self.target = PixelTarget(recipe, "pixels")
        self.terms: dict[str, Target] = {"pixels": self.target}

    def __call__(self, batch: MaskedBatch) -> dict[str, Tensor]:
        clip = to_unit(batch.views[self.size_px])
        if self.target.takes_standardised:
            # MAE takes its targets from the normalised image; VideoMAE undoes the normalisation first.
            clip = normalise(clip, torch.float32)
        return {"pixels": gather_masked(self.target(clip), batch.masked)}


class TeacherTargets:
    """The targets of stage two: features of every frozen teacher, one pass per clip whatever the number of masks."""

    def __init__(self, recipe: TrainingRecipe, teachers: dict[str, Callable[..., Tensor]], dtype: torch.dtype) -> None:
        """Keep the teachers.

        Args:
            recipe: the training run.
            teachers: by name, (B, C, T, H, W) and the wanted tokens, if not all -> features (B, N or M, D).
            dtype: precision of the clips that they are given.
        """
        self.settings = recipe.teachers
        self.teachers = teachers
        self.size_px = recipe.data.clip.size_px
        self.dtype = dtype
        self.terms = build_targets(recipe)

    @torch.no_grad()
    def __call__(self, batch: MaskedBatch) -> dict[str, Tensor]:
        if batch.masked.shape[1] == 1:
            masked = batch.masked[:, 0]
            return {name: self.as_targets(name, self.raw_features(name, batch, masked)).float() for name in self.settings}
        # Several masks hide next to everything between them.
        return {name: gather_masked(self.features(name, batch), batch.masked).float() for name in self.settings}

    @torch.no_grad()
    def features(self, name: str, batch: MaskedBatch) -> Tensor:
        """Return a teacher's features of all tokens, (B, N, D), normalised where its settings ask for it."""
        return self.as_targets(name, self.raw_features(name, batch))

    @torch.no_grad()
    def raw_features(self, name: str, batch: MaskedBatch, wanted: Tensor | None = None) -> Tensor:
        """Return a teacher's features of all tokens, (B, N, D), or of the ``wanted`` ones (B, M), not normalised."""
        view = normalise(to_unit(batch.views[self.settings[name].input_px or self.size_px]), self.dtype)
        return self.teachers[name](view) if wanted is None else self.teachers[name](view, wanted)

    def as_targets(self, name: str, features: Tensor) -> Tensor:
        """Return a teacher's features (..., D), normalised where its settings ask for it."""
        return self.terms[name](features)
