"""Learned positions of a file on the grid at hand."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import ConfigError, Grid
from mvd_ds.models.formats.reading import Checkpoint

#: Slots in time that published video models were trained with; only consulted where a file does not say its clip.
PUBLISHED_SLOTS = 8


def fit_learned_positions(checkpoint: Checkpoint, prefix: str, grid: Grid, origin: str) -> None:
    """Resize the learned table of one part of a model to ``grid``, bicubic within frames, linear along time; say so.

    Raises:
        ConfigError: if it is not known which grid the file's table is of.
    """
    name = f"{prefix}position.table"
    table = checkpoint.state.get(name)
    if table is None or len(table) == math.prod(grid):
        return
    stored = _stored_grid(checkpoint, len(table), grid)
    if stored is None:
        raise ConfigError(f"{origin}: {name} has {len(table)} rows, which is no grid that could be resized to {grid}")
    checkpoint.state[name] = resize_table(table, stored, grid)
    checkpoint.notes.append(f"{name}: learned positions on grid {stored} resized to {grid}, bicubic")


def resize_table(table: Tensor, stored: Grid, grid: Grid) -> Tensor:
    """Resize (N, D) on one grid to (N', D) on another; antialiased, cell centres aligned, as timm resizes its tables."""
    frames = table.float().unflatten(0, stored)  # (t, h, w, D)
    if stored[0] != grid[0]:
        along = frames.flatten(1).T.unsqueeze(0)
        frames = F.interpolate(along, size=grid[0], mode="linear", align_corners=False)[0].T.unflatten(1, frames.shape[1:])
    if stored[1:] != grid[1:]:
        picture = F.interpolate(frames.permute(0, 3, 1, 2), size=grid[1:], mode="bicubic", antialias=True, align_corners=False)
        frames = picture.permute(0, 2, 3, 1)
    return frames.flatten(0, 2).to(table.dtype).contiguous()


def _stored_grid(checkpoint: Checkpoint, tokens: int, grid: Grid) -> Grid | None:
    clip, patch = checkpoint.stated.get("clip"), checkpoint.state.get("encoder.patch_embed.weight")
    if clip and patch is not None:
        side = clip["size_px"] // patch.shape[3]
        slots = clip["frames"] // patch.shape[2]
        if slots * side * side == tokens:
            return slots, side, side
    for slots in (1,) if grid[0] == 1 else (grid[0], PUBLISHED_SLOTS):
        side = math.isqrt(tokens // slots)
        if slots * side * side == tokens:
            return slots, side, side
    return None
