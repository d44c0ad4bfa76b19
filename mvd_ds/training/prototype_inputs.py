"""The inputs that prototypes take beside a masked clip: local crops, and whether the prototypes learn yet."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import PrototypeSettings, TrainingRecipe
from mvd_ds.training.device_batch import MaskedBatch
from mvd_ds.training.device_crops import crop_boxes, cut, hashed_uniforms


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
        crops = [cut(frames, boxes[:, number], (side, side)) for number in range(count)]
        small = torch.stack(crops, dim=1).flatten(0, 1).unflatten(1, view.shape[1:3])
        before = self._margin(settings) * self.patch_px
        after = self.size_px - side - before
        return F.pad(small, (before, after, before, after))

    def _margin(self, settings: PrototypeSettings) -> int:
        """Return the number of token rows above a crop."""
        return (self.grid[1] - settings.local_px // self.patch_px) // 2

    def _middle(self, crops: int, settings: PrototypeSettings, device: torch.device) -> Tensor:
        """Return the tokens of a crop, int64 (crops, 1, V): those in the middle of the grid, in all slots."""
        slots, rows, columns = self.grid
        tokens = torch.arange(slots * rows * columns, device=device).view(self.grid)
        first, count = self._margin(settings), settings.local_px // self.patch_px
        return tokens[:, first : first + count, first : first + count].reshape(1, 1, -1).expand(crops, -1, -1)
