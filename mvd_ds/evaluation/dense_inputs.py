"""The inputs of dense read-outs: tokens at their places, or of a whole moment, and the pixels themselves for comparison."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mvd_ds.config import Grid

#: Rows and columns of the parts of a place whose means stand for its pixels; all of them would be more channels than a token has.
PIXEL_PARTS = 4


def readout_inputs(tokens: Tensor, is_of_frames: bool, parts: int) -> Tensor:
    """Return the inputs (B, n, D') that predict a target.

    Args:
        tokens: (B, t, h, w, D).
        is_of_frames: False: each token predicts what is at its place, n = t * h * w and D' = D; True: the tokens of a moment
            predict together, n = t, as means over ``parts`` rows and columns of the frame side by side.
        parts: rows and columns, no more than there are tokens; D' = parts * parts * D.
    """
    if not is_of_frames:
        return tokens.flatten(1, 3)
    size = min(parts, tokens.shape[2]), min(parts, tokens.shape[3])
    means = adaptive_avg_pool2d(tokens.flatten(0, 1).permute(0, 3, 1, 2).float(), size)
    return means.permute(0, 2, 3, 1).flatten(1).unflatten(0, tokens.shape[:2])


def input_width(width: int, grid: Grid, is_of_frames: bool, parts: int) -> int:
    """Return D' of ``readout_inputs`` for tokens of ``width`` channels."""
    return width * (min(parts, grid[1]) * min(parts, grid[2]) if is_of_frames else 1)


def pixel_tokens(clips: Tensor, grid: Grid) -> Tensor:
    """Return uint8 (B, C, T, H, W) cut into the places of a grid, fp32 (B, t, h, w, D): 4 x 4 means of each, in [0, 1]."""
    slots, rows, columns = grid
    frames = clips.transpose(1, 2).flatten(0, 1).float() / 255
    sized = adaptive_avg_pool2d(frames, (rows * PIXEL_PARTS, columns * PIXEL_PARTS))
    cut = sized.unflatten(0, (len(clips), slots, -1)).unflatten(4, (rows, -1)).unflatten(6, (columns, -1))
    # (B, t, frames of a slot, C, h, 4, w, 4) -> (B, t, h, w, all the rest)
    return torch.flatten(cut.permute(0, 1, 4, 6, 2, 3, 5, 7), 4)
