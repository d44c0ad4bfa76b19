"""Masks: the tokens that are hidden from the student, and those it predicts. ``mask`` is bool and True = masked, everywhere.

Every kind is exact in count: a recipe's grid and ratios alone say how many tokens are visible, masked and predicted, so that
batches stack and ranks stay in step. Masks are drawn in the loader's workers, from a clip's key. A mask that needs what only
the device knows, a teacher's attention or the motion of the clip, is drawn there: ``masking_scored``, ``masking_batch``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mvd_ds.config import ConfigError, Grid, MaskingSettings

_MOST_BLOCKS = 1000
"""Blocks after which the tokens that are still missing (ratios near 1) are drawn one by one."""
_CLOCKWISE = np.array([[0, 1], [3, 2]])
"""Places of a 2 x 2 cell in the order in which the running cell visits them."""


def tube_mask(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw masks, bool (K, N), each one spatial mask repeated over time; ``int(ratio * h * w)`` masked a slot.

    Source: MVD 1.3; VideoMAE, tube masking.
    """
    t, h, w = grid
    return np.tile(_random_rows(h * w, int(settings.ratio * h * w), settings.masks_per_clip, generator), (1, t))


def random_mask(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw masks, bool (K, N), over all tokens of the clip; ``int(ratio * N)`` masked. Source: MVD 1.3; MAE."""
    tokens = math.prod(grid)
    return _random_rows(tokens, int(settings.ratio * tokens), settings.masks_per_clip, generator)


def multi_block_mask(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw masks, bool (K, N), each a union of blocks, ``int(ratio * N)`` masked.

    Blocks are drawn until there are enough tokens; of the last one, so many columns (all slots of a place) are taken as are
    missing, row by row. Mask k has blocks of area ``block_scales[k]``, in turn.

    Source: V-JEPA, Bardes et al. 2024, 3-D multi-block. Differs: there the number of blocks is fixed and the number of
    tokens varies, and batches are cut to the smallest.
    """
    count = int(settings.ratio * math.prod(grid))
    scales = settings.block_scales
    return np.stack(
        [
            _union_of_blocks(grid, count, scales[k % len(scales)], settings, generator).ravel()
            for k in range(settings.masks_per_clip)
        ]
    )


MASKS: dict[str, Callable[[MaskingSettings, Grid, np.random.Generator], np.ndarray]] = {
    "tube": tube_mask,
    "random": random_mask,
    "multi_block": multi_block_mask,
}


def running_cell(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Return the tokens that the decoder keeps, bool (N,): of every 2 x 2 cell the same places, which go round by one each slot.

    In four slots every place is kept equally often, and a tube mask, whose places are hidden all the time, keeps exactly
    its share.

    Source: VideoMAE v2, Wang et al. 2023, decoder masking; MAR, Qing et al. 2022.
    """
    t, h, w = grid
    kept = round(4 * (1 - settings.decoder_ratio))
    turn = (np.arange(t) + int(generator.integers(4)))[:, None, None]
    place = np.tile(_CLOCKWISE, (-(-h // 2), -(-w // 2)))[:h, :w]
    return ((place - turn) % 4 < kept).ravel()


def random_half(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw the tokens that the decoder keeps, bool (N,), each with the same probability."""
    return generator.random(math.prod(grid)) >= settings.decoder_ratio


DECODER_MASKS: dict[str, Callable[[MaskingSettings, Grid, np.random.Generator], np.ndarray]] = {
    "running_cell": running_cell,
    "random": random_half,
}


def draw_masks(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw the K masks of one clip, bool (K, N), True = masked. Mask k does not depend on how many follow it.

    Raises:
        ConfigError: for a kind that is drawn from scores.
    """
    if settings.kind not in MASKS:
        raise ConfigError(
            f"masking.kind {settings.kind}: masks are drawn from scores of tokens; kinds without are {', '.join(MASKS)}"
        )
    return MASKS[settings.kind](settings, grid, generator)


def predicted_tokens(
    settings: MaskingSettings, grid: Grid, masked: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the tokens, int64 (K, count) ascending, that the decoder predicts of the masked ones, int64 (K, M) ascending.

    They are the masked ones among those that the decoder's mask keeps. Where these are not exactly ``count``, tokens drawn
    from the rest are added, or some are taken off: never with a tube mask, a ratio of a half and slots in fours.
    """
    if settings.decoder == "all":
        return masked
    chosen = np.empty((len(masked), count), np.int64)
    for row, tokens in zip(chosen, masked, strict=True):
        kept = DECODER_MASKS[settings.decoder](settings, grid, generator)[tokens]
        # A random order in which the kept come first: the first ``count`` of it are all of them and some more, or some.
        order = np.argsort(generator.random(len(tokens)) - kept)
        row[:] = np.sort(tokens[order[:count]])
    return chosen


def split_tokens(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return visible (K, V) and masked (K, M) token indices, int64, ascending, of masks (K, N) with equal counts."""
    rows, tokens = mask.shape
    starts = tokens * np.arange(rows)[:, None]
    return np.flatnonzero(~mask).reshape(rows, -1) - starts, np.flatnonzero(mask).reshape(rows, -1) - starts


def _random_rows(size: int, count: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``rows`` independent bool rows of ``size`` with exactly ``count`` True each."""
    mask = np.zeros((rows, size), dtype=bool)
    for row in mask:
        row[generator.permutation(size)[:count]] = True
    return mask


def _union_of_blocks(
    grid: Grid, count: int, scale: float, settings: MaskingSettings, generator: np.random.Generator
) -> np.ndarray:
    """Draw a union of blocks, bool (t, h, w), with exactly ``count`` True."""
    mask = np.zeros(grid, dtype=bool)
    for _ in range(_MOST_BLOCKS):
        missing = count - int(mask.sum())
        if not missing:
            return mask
        box = _draw_block(grid, scale, settings, generator)
        # Place by place, all slots of one before the next: what is cut off the last block are its last columns.
        new = np.argwhere(~mask[box].transpose(1, 2, 0))[:missing]
        mask[box].transpose(1, 2, 0)[tuple(new.T)] = True
    rest = np.flatnonzero(~mask)
    mask.ravel()[generator.permutation(rest)[: count - int(mask.sum())]] = True
    return mask


def _draw_block(grid: Grid, scale: float, settings: MaskingSettings, generator: np.random.Generator) -> tuple[slice, ...]:
    """Draw a block of about ``scale`` of the area, with a random aspect ratio, anywhere in the grid."""
    t, h, w = grid
    low, high = settings.block_aspect
    aspect = math.exp(generator.uniform(math.log(low), math.log(high)))
    wanted = (
        round(settings.block_duration * t),
        round(math.sqrt(scale * h * w * aspect)),
        round(math.sqrt(scale * h * w / aspect)),
    )
    sides = [min(max(side, 1), size) for side, size in zip(wanted, grid, strict=True)]
    starts = [int(generator.integers(size - side + 1)) for side, size in zip(sides, grid, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
