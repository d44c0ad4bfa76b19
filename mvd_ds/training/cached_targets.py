"""Targets that are read from disk in place of being asked of teachers, and the numbers that they are stored as."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mvd_ds.config import ATTENTION, TrainingRecipe
from mvd_ds.objectives.targets import gather_masked
from mvd_ds.training.device_batch import MaskedBatch
from mvd_ds.training.step import DrawsMasks, TeacherTargets

STORES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
"""Types of stored numbers by the name of the setting ``targets.store``."""
SCALE = ".scale"
"""Ending of the name of the scales of an output in int8."""
_LARGEST = 127


def encode(values: Tensor, store: str, groups: int = 1) -> tuple[Tensor, Tensor | None]:
    """Return values as they are stored, and the scales of int8.

    Args:
        values: (..., D), any float type.
        store: a key of ``STORES``.
        groups: int8: parts of the last axis, each with a scale that its largest number fills.

    Returns:
        The numbers (..., D), and fp32 scales (..., groups) or None.
    """
    if store != "int8":
        return values.to(STORES[store]), None
    parts = values.float().unflatten(-1, (groups, -1))
    scale = parts.abs().amax(dim=-1) / _LARGEST
    rounded = (parts / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]).round().clamp(-_LARGEST, _LARGEST)
    return rounded.to(torch.int8).flatten(-2), scale


def decode(stored: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return what ``encode`` stored, (..., D) in ``dtype``."""
    if scale is None:
        return stored.to(dtype)
    return (stored.float().unflatten(-1, (scale.shape[-1], -1)) * scale[..., None]).flatten(-2).to(dtype)


class CachedTargets(TeacherTargets):
    """The targets of stage two from what was kept of each view of a clip; no teacher is there.

    Args:
        recipe: the training run.
        given: type in which a teacher gives an output, by its name; stored numbers are turned back to it.
        masks: draws the masks of batches that come without; None: they come with them.
    """

    def __init__(self, recipe: TrainingRecipe, given: Mapping[str, torch.dtype], masks: DrawsMasks | None = None) -> None:
        super().__init__(recipe, {}, torch.float32, masks)
        self.given = given

    @torch.no_grad()
    def sources(self, teacher: str, batch: MaskedBatch, wanted: Tensor | None = None) -> dict[str, Tensor]:
        """Return what a teacher gave of all tokens (B, N, D), or of the ``wanted`` ones (B, M), by name of the output."""
        assert batch.cached is not None, "a batch of a run with cached targets holds them"
        names = [teacher + suffix for suffix in self.settings[teacher].targets]
        if self.masks is not None and self.masks.teacher == teacher:
            names.append(ATTENTION)
        found = {}
        for name in names:
            stored, scale = batch.cached[name], batch.cached.get(name + SCALE)
            if wanted is not None:
                stored = gather_masked(stored, wanted[:, None])
                scale = None if scale is None else gather_masked(scale, wanted[:, None])
            found[name] = decode(stored, scale, self.given[name])
        return found
