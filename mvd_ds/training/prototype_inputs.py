"""The inputs that prototypes take beside a masked clip: local crops, and whether the prototypes learn yet."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import PrototypeSettings, TrainingRecipe
from mvd_ds.training.device_batch import MaskedBatch

#: Height over width of a local crop, log-uniform between the two. Source: iBOT.
ASPECT = (3 / 4, 4 / 3)
#: Odd constants of SplitMix64 as signed numbers. Source: Steele, Lea, Flood 2014.
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class PrototypeInputs:
    """The maker of what a student with prototypes is given beside its clip; nothing for one without.

    Args:
        recipe: the run.
    """

    def __init__(self, recipe: TrainingRecipe) -> None:
        found = [output.target for output in recipe.outputs.values() if output.target and output.target.kind == "prototypes"]
        self.settings = found[0].prototypes if found else None
        self.seed, self.clips_per_step = recipe.run.seed, recipe.batch.global_
        self.grid, self.patch_px, self.size_px = recipe.grid, recipe.model.patch_px, recipe.data.clip.size_px

    def __call__(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """Return ``learning``, a scalar, and of local crops ``local``, clips in [0, 1], and ``local_visible``, by name."""
        if self.settings is None:
            return {}
        given = {}
        if self.settings.frozen_steps:
            given["learning"] = (batch.place[0] // self.clips_per_step >= self.settings.frozen_steps).float()
        if self.settings.local_crops:
            given["local"] = self._crops(batch.views[self.size_px], batch.place, self.settings)
            given["local_visible"] = self._middle(len(given["local"]), self.settings, batch.place.device)
        return given

    def _crops(self, view: Tensor, place: Tensor, settings: PrototypeSettings) -> Tensor:
        """Return every crop of uint8 (B, C, T, H, W) in the middle of an empty clip, (B*L, C, T, H, W) in [0, 1]."""
        side, count = settings.local_px, settings.local_crops
        boxes = crop_boxes(hashed_uniforms(self.seed, place, 4 * count).unflatten(1, (count, 4)), settings.local_area)
        frames = view.flatten(1, 2).float() / 255
        crops = [self._cut(frames, boxes[:, number], side) for number in range(count)]
        small = torch.stack(crops, dim=1).flatten(0, 1).unflatten(1, view.shape[1:3])
        before = self._margin(settings) * self.patch_px
        after = self.size_px - side - before
        return F.pad(small, (before, after, before, after))

    @staticmethod
    def _cut(frames: Tensor, boxes: Tensor, side: int) -> Tensor:
        """Return boxes (B, 4) of frames (B, C*T, H, W), resized to (B, C*T, side, side)."""
        top, left, height, width = boxes.float().unbind(dim=1)
        zero = torch.zeros_like(top)
        rows = (width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1)
        grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), [len(frames), 1, side, side], align_corners=False)
        return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)

    def _margin(self, settings: PrototypeSettings) -> int:
        """Return the number of token rows above a crop."""
        return (self.grid[1] - settings.local_px // self.patch_px) // 2

    def _middle(self, crops: int, settings: PrototypeSettings, device: torch.device) -> Tensor:
        """Return the tokens of a crop, int64 (crops, 1, V): those in the middle of the grid, in all slots."""
        slots, rows, columns = self.grid
        tokens = torch.arange(slots * rows * columns, device=device).view(self.grid)
        first, count = self._margin(settings), settings.local_px // self.patch_px
        return tokens[:, first : first + count, first : first + count].reshape(1, 1, -1).expand(crops, -1, -1)


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
