"""The masks of a batch: drawn whole where clips are read, or their random numbers there and the rest on the device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import Grid, MaskingSettings, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.masking import draw_masks, predicted_tokens, split_tokens
from mvd_ds.data.masking_motion import motion_scores
from mvd_ds.data.masking_scored import draw_numbers, draw_priorities, scored_masks, split_scored


def mask_layout(recipe: TrainingRecipe, masking: MaskingSettings) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and type of the arrays of ``mask_arrays``, by their field of a ``ClipBatch``."""
    tokens, masks = math.prod(recipe.grid), masking.masks_per_clip
    if not masking.is_scored:
        counts = {"visible": tokens - recipe.masked_tokens, "masked": recipe.predicted_tokens}
        return {name: ((masks, count), "int64") for name, count in counts.items()}
    groups, cells, _ = masking.cells(recipe.grid)
    order = {} if masking.decoder == "all" else {"mask_order": ((masks, tokens), "float32")}
    return {"mask_numbers": ((masks, groups * cells), "float32"), **order}


def mask_arrays(
    masking: MaskingSettings, grid: Grid, predicted: int, of_mask: np.random.Generator, of_decoder: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw what can be drawn of a clip's masks before it is on the device, by field of a ``ClipBatch``.

    Args:
        masking: kind and number of masks.
        grid: (t, h, w) token grid.
        predicted: number of tokens that are predicted under a mask.
        of_mask: generator for the tokens that are hidden.
        of_decoder: generator for those of them that are predicted.
    """
    if masking.is_scored:
        order = {} if masking.decoder == "all" else {"mask_order": draw_priorities(masking, grid, of_decoder)}
        return {"mask_numbers": draw_numbers(masking, grid, of_mask), **order}
    if masking.kind == "none":
        every = np.broadcast_to(np.arange(math.prod(grid)), (masking.masks_per_clip, math.prod(grid)))
        return {"visible": every, "masked": every[:, :0]}
    visible, masked = split_tokens(draw_masks(masking, grid, of_mask))
    return {"visible": visible, "masked": predicted_tokens(masking, grid, masked, predicted, of_decoder)}


class DeviceMasks:
    """The masks of batches that came with no more than their random numbers, made of scores on the device.

    Args:
        recipe: the run, with masking of a kind that ``is_scored``.
    """

    def __init__(self, recipe: TrainingRecipe) -> None:
        self.settings, self.grid = recipe.masking, recipe.grid
        self.masked, self.predicted = recipe.masked_tokens, recipe.predicted_tokens
        self.size_px = recipe.data.clip.size_px

    @property
    def teacher(self) -> str | None:
        """Name of the teacher whose attention is the score; None: the clip itself has it."""
        return self.settings.teacher

    @torch.no_grad()
    def __call__(self, batch: ClipBatch, attention: Tensor | None = None) -> ClipBatch:
        """Return the batch with its masks.

        Args:
            batch: clips on the device, mirrored already.
            attention: (B, N) attention that each token gets of the teacher, on the student's grid.
        """
        return self.from_scores(batch, self.scores(batch, attention))

    def scores(self, batch: ClipBatch, attention: Tensor | None) -> Tensor:
        """Return the scores that masks are drawn from, (B, N) or (B, K, N): the attention, or the motion of the clips."""
        assert (attention is None) == (self.teacher is None), "attention is the score where a teacher is named"
        if attention is not None:
            return attention
        assert batch.mask_numbers is not None
        return motion_scores(self.settings, self.grid, batch.views[self.size_px], batch.mask_numbers)

    def from_scores(self, batch: ClipBatch, scores: Tensor | None) -> ClipBatch:
        """Return the batch with masks from these scores; without scores they are random ones of the same counts."""
        numbers = batch.mask_numbers
        assert numbers is not None, "a batch whose masks are drawn on the device has the numbers for it"
        if scores is None:
            scores = numbers.new_ones(len(numbers), math.prod(self.grid))
        mask = scored_masks(self.settings, self.grid, scores, numbers)
        visible, masked = split_scored(mask, self.masked, self.predicted, batch.mask_order)
        return batch._replace(visible=visible, masked=masked)


def device_masks(recipe: TrainingRecipe) -> DeviceMasks | None:
    """Return what draws the masks of a run on the device; None where they come with the clips."""
    return DeviceMasks(recipe) if recipe.masking.is_scored else None
