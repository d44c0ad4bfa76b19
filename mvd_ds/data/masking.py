"""Which tokens the student does not see. ``mask`` is bool and True = masked, everywhere."""

from __future__ import annotations

import numpy as np

from mvd_ds.config import Grid, MaskingSettings


def tube_mask(grid: Grid, ratio: float, masks: int, generator: np.random.Generator) -> np.ndarray:
    """``masks`` masks, bool (K, N), each one spatial mask repeated over time; ``int(ratio * h * w)`` masked a slot.

    Source: MVD 1.3; VideoMAE, tube masking.
    """
    t, h, w = grid
    return np.tile(_random_rows(h * w, int(ratio * h * w), masks, generator), (1, t))


def random_mask(grid: Grid, ratio: float, masks: int, generator: np.random.Generator) -> np.ndarray:
    """``masks`` masks, bool (K, N), over all tokens of the clip; ``int(ratio * N)`` masked. Source: MVD 1.3; MAE."""
    tokens = grid[0] * grid[1] * grid[2]
    return _random_rows(tokens, int(ratio * tokens), masks, generator)


MASKS = {"tube": tube_mask, "random": random_mask}


def draw_masks(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """The K masks of one clip, bool (K, N), True = masked. Mask k does not depend on how many follow it."""
    return MASKS[settings.kind](grid, settings.ratio, settings.masks_per_clip, generator)


def split_tokens(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Visible (K, V) and masked (K, M) token indices, int64, ascending, of masks (K, N) with equal counts."""
    rows, tokens = mask.shape
    starts = tokens * np.arange(rows)[:, None]
    return np.flatnonzero(~mask).reshape(rows, -1) - starts, np.flatnonzero(mask).reshape(rows, -1) - starts


def _random_rows(size: int, count: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """``rows`` independent bool rows of ``size`` with exactly ``count`` True each."""
    mask = np.zeros((rows, size), dtype=bool)
    for row in mask:
        row[generator.permutation(size)[:count]] = True
    return mask
