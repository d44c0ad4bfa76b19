"""Rotary positions: pairs of channels of queries and keys are turned by angles that grow with a token's place.

The product of a query and a key then depends on how far apart their tokens are, whichever other tokens there are: any subset
of a grid may be encoded. Class and register tokens are not turned.

================  ============================================  ======================================  =====================
``position``      axes, and their share of a head's channels    angles of a pair                        pairs of channels
================  ============================================  ======================================  =====================
rope3d            time, row, column: a third each, rounded      place x 10000^(-i / pairs); both        2 i and 2 i + 1
                  down to even; the rest is not turned          channels of a pair have the same one
rope3d_vjepa2     the same                                      the frequencies are repeated one after  2 i and 2 i + 1
                                                                another, so the two channels of a pair
                                                                have different ones
rope2d            row, column: half of the pairs each           2 pi x place in [-1, 1] x               i and i + d / 2
                                                                100^(-i / pairs)
================  ============================================  ======================================  =====================

Source: V-JEPA 2.1; V-JEPA 2, whose order was an oversight that its weights depend on; DINOv3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mvd_ds.config import Grid

#: Base of the frequencies. Source: V-JEPA 2; DINOv3.
BASE, IMAGE_BASE = 10000.0, 100.0


def rotate(packed: Tensor, turns: Tensor, kind: str) -> Tensor:
    """Return queries or keys, turned: x * cosine + partner of x * signed sine, in fp32, in the type of ``packed``.

    Args:
        packed: (B, N, h, d).
        turns: fp32 (1 or B, N, 2, d), cosines and signed sines, from ``Rotary``.
        kind: row of ``ROTATIONS``.
    """
    cosines, sines = turns.unsqueeze(2).unbind(3)
    channels = packed.float()
    return (channels * cosines + ROTATIONS[kind].partner(channels) * sines).to(packed.dtype)


class Rotary(nn.Module):
    """The turns of all tokens of a grid: a table that belongs to a geometry and not to a checkpoint, as ``Position`` has one.

    Args:
        kind: row of ``ROTATIONS``.
        grid: (t, h, w) token grid.
        head_dim: d.
        prefix: tokens in front of the grid's that are not turned.
        side: rows and columns count up to side - 1 whatever the grid is; None: they count cells.
    """

    table: Tensor

    def __init__(self, kind: str, grid: Grid, head_dim: int, prefix: int = 0, side: int | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        places = np.stack(np.meshgrid(*(np.arange(count, dtype=np.float64) for count in grid), indexing="ij"), -1).reshape(-1, 3)
        if side is not None:
            places[:, 1:] *= [(side - 1) / max(count - 1, 1) for count in grid[1:]]
        turns = ROTATIONS[kind].table(places, grid, head_dim)
        still = np.stack((np.ones((prefix, head_dim)), np.zeros((prefix, head_dim))), axis=1)
        # numpy, because ZeRO's construction context changes type and device of what torch's factories make.
        table = torch.from_numpy(np.concatenate((still, turns)).astype(np.float32))
        self.register_buffer("table", table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Follow the model to a device; the table stays fp32 where the model is cast to bf16."""
        exact = self.table
        super()._apply(fn, recurse)
        if self.table.dtype != exact.dtype:
            self.table = exact.to(self.table.device)
        return self

    def forward(self, index: Tensor | None = None) -> Tensor:
        """Return fp32 (1 or B, prefix + V, 2, d), cosines and signed sines of the tokens.

        Args:
            index: (B, V) token index of every token behind the prefix, or None if they are all N tokens in order.
        """
        if index is None:
            return self.table.unsqueeze(0)
        prefix = self.table[: self.prefix].expand(len(index), -1, -1, -1)
        return torch.cat((prefix, self.table[index + self.prefix]), dim=1)


def _rope_3d(places: np.ndarray, _grid: Grid, head_dim: int, order: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (N, 2, d): a third of the channels for time, rows and columns each; ``order`` spreads frequencies over channels."""
    count = 2 * (head_dim // 3 // 2)
    frequencies = order(BASE ** -(np.arange(count // 2) / (count / 2)))
    angles = (places[:, :, None] * frequencies).reshape(len(places), 3 * count)
    angles = np.concatenate((angles, np.zeros((len(places), head_dim - 3 * count))), axis=1)
    signs = np.tile([-1.0, 1.0], head_dim)[:head_dim]
    return np.stack((np.cos(angles), np.sin(angles) * signs), axis=1)


def _rope_3d_paired(places: np.ndarray, grid: Grid, head_dim: int) -> np.ndarray:
    return _rope_3d(places, grid, head_dim, lambda frequencies: np.repeat(frequencies, 2))


def _rope_3d_tiled(places: np.ndarray, grid: Grid, head_dim: int) -> np.ndarray:
    return _rope_3d(places, grid, head_dim, lambda frequencies: np.tile(frequencies, 2))


def _rope_2d(places: np.ndarray, grid: Grid, head_dim: int) -> np.ndarray:
    """Return (N, 2, d): rows, then columns, both from -1 to 1 at the outer edges of the frame."""
    frequencies = IMAGE_BASE ** -np.arange(0, 1, 4 / head_dim)
    inside = 2 * (places[:, 1:] + 0.5) / np.array(grid[1:]) - 1
    angles = np.tile((2 * np.pi * inside[:, :, None] * frequencies).reshape(len(places), -1), 2)
    signs = np.repeat([-1.0, 1.0], head_dim // 2)
    return np.stack((np.cos(angles), np.sin(angles) * signs), axis=1)


def _neighbours(channels: Tensor) -> Tensor:
    return channels.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def _halves(channels: Tensor) -> Tensor:
    return torch.cat(channels.chunk(2, dim=-1)[::-1], dim=-1)


class Rotation(NamedTuple):
    """A row of ``ROTATIONS``."""

    table: Callable[[np.ndarray, Grid, int], np.ndarray]
    """(places (N, 3), grid, d) -> cosines and signed sines (N, 2, d)."""
    partner: Callable[[Tensor], Tensor]
    """(..., d) -> the other channel of each channel's pair."""


ROTATIONS: dict[str, Rotation] = {
    "rope3d": Rotation(_rope_3d_paired, _neighbours),
    "rope3d_vjepa2": Rotation(_rope_3d_tiled, _neighbours),
    "rope2d": Rotation(_rope_2d, _halves),
}
"""Every rotary position by its name in the setting ``position``."""
