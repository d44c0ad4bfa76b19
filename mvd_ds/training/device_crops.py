"""Boxes that are cut out of clips where they are computed with, and the random numbers for them, by a clip's place alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import TrainingRecipe
from mvd_ds.training.device_batch import MaskedBatch

#: Height over width of a crop, log-uniform between the two. Source: iBOT, A-CLIP.
ASPECT = (3 / 4, 4 / 3)
#: Odd constants of SplitMix64 as signed numbers. Source: Steele, Lea, Flood 2014.
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class OwnViews:
    """The views of masks: each mask of a clip is of a crop of its own, cut out of the student's clip. Source: A-CLIP.

    Args:
        recipe: the run.
    """

    def __init__(self, recipe: TrainingRecipe) -> None:
        self.area, self.masks = recipe.masking.view_area, recipe.masks_per_clip
        self.seed, self.grid = recipe.run.seed, recipe.grid

    def scores(self, scores: Tensor, batch: MaskedBatch) -> Tensor:
        """Return the scores (B, K, N) of the tokens of every view, of those of the clips (B, N); without views they stay."""
        if self.area is None:
            return scores
        slots, rows, columns = self.grid
        boxes = self._boxes(batch, self.area)
        maps = scores.float().view(-1, slots, rows, columns).repeat_interleave(len(boxes) // len(scores), dim=0)
        return cut(maps, boxes, (rows, columns)).flatten(1).unflatten(0, (len(scores), -1))

    def clips(self, clip: Tensor, batch: MaskedBatch) -> Tensor:
        """Return the views (B*K, C, T, H, W) of clips (B, C, T, H, W) in [0, 1]; without views the clips."""
        if self.area is None:
            return clip
        boxes = self._boxes(batch, self.area)
        frames = clip.flatten(1, 2).repeat_interleave(len(boxes) // len(clip), dim=0)
        views = cut(frames, boxes, (clip.shape[3], clip.shape[4]))
        return views.unflatten(1, clip.shape[1:3])

    def rows(self, masks: Tensor) -> Tensor:
        """Return what there is for every mask, (B, K, ...), as views take it, (B*K, 1, ...); without views it stays."""
        return masks if self.area is None else masks.flatten(0, 1)[:, None]

    def _boxes(self, batch: MaskedBatch, area: tuple[float, float]) -> Tensor:
        """Return (B*K, 4), for as many masks as the batch has."""
        uniforms = hashed_uniforms(self.seed, batch.place, 4 * self.masks).unflatten(1, (self.masks, 4))
        return crop_boxes(uniforms[:, : batch.drop_path.shape[1]], area).flatten(0, 1)


def cut(frames: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (B, 4) of frames (B, C, H, W), resized to (B, C, *size), bilinear."""
    top, left, height, width = boxes.float().unbind(dim=1)
    zero = torch.zeros_like(top)
    rows = (width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1)
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), [len(frames), 1, *size], align_corners=False)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def crop_boxes(uniforms: Tensor, area: tuple[float, float]) -> Tensor:
    """Return boxes (..., 4), top, left, height and width as shares of a frame, of uniforms (..., 4) in [0, 1)."""
    share = area[0] + (area[1] - area[0]) * uniforms[..., 0]
    root = torch.sqrt(ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** uniforms[..., 1])
    height, width = ((share.sqrt() * side).clamp(max=1.0) for side in (root, 1 / root))
    return torch.stack(((1 - height) * uniforms[..., 2], (1 - width) * uniforms[..., 3], height, width), dim=-1)


def hashed_uniforms(seed: int, place: Tensor, count: int) -> Tensor:
    """Return uniforms in [0, 1), fp64 (B, count), that depend on the seed and the place of a clip alone.

    They are made of integers where the places are, the same on every device, and nothing waits for them.

    Args:
        seed: ``run.seed``.
        place: int64 (B,).
        count: uniforms of a clip.
    """
    numbers = (place[:, None] * count + torch.arange(count, device=place.device)) * _STEP + _signed((seed + 1) * _FIRST)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return _shifted(numbers ^ _shifted(numbers, 31), 11).double() * 2.0**-53


def _signed(number: int) -> int:
    """Return an integer as its lowest 64 bits with a sign."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Return int64 shifted right as if there were no sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
