"""Masks by a score of every token, such as a teacher's attention: drawn where the scores are, exact in count for every clip.

Random numbers come with the batch, drawn from the clip's key in the loader's workers, and what is computed with them here is
exact: comparisons, sums in double precision of few numbers, one division. So the CPU and a GPU, a resumed run and any number of
ranks make the same mask of the same scores.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import Grid, MaskingSettings
from mvd_ds.data.masking import DECODER_MASKS

_LEAST = 1e-30
"""Scores count as this at least, so that cells without any are drawn last, and in a random order."""


def draw_numbers(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw the random numbers of one clip's masks, float32 (K, groups * cells), all positive.

    They are exponential to the power of the temperature: divided by scores, the smallest are a sample without replacement
    with probabilities in proportion to score^(1 / temperature). Nothing but that division is left to the device.

    Source: Efraimidis and Spirakis 2006, weighted random sampling.
    """
    groups, cells, _ = settings.cells(grid)
    uniforms = 1.0 - generator.random((settings.masks_per_clip, groups * cells))
    return np.maximum((-np.log(uniforms)) ** settings.temperature, _LEAST).astype(np.float32)


def draw_priorities(settings: MaskingSettings, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Draw the order in which masked tokens are predicted, float32 (K, N): those that the decoder's mask keeps come first."""
    rows = np.empty((settings.masks_per_clip, math.prod(grid)), np.float32)
    for row in rows:
        kept = DECODER_MASKS[settings.decoder](settings, grid, generator)
        row[:] = generator.random(len(row)) - kept
    return rows


def scored_masks(settings: MaskingSettings, grid: Grid, scores: Tensor, numbers: Tensor) -> Tensor:
    """Return masks, bool (B, K, N), True = masked, ``settings.masked_tokens(grid)`` in every row.

    Cells of equal score are in a random order.

    Args:
        scores: (B, N), not negative, on the student's grid; with ``pick: warp`` (B, K, N).
        numbers: float32 (B, K, groups * cells) from ``draw_numbers``.
    """
    groups, cells, _ = settings.cells(grid)
    scores = scores if scores.ndim == 3 else scores[:, None]
    ranked = _cell_scores(settings, grid, scores).expand(-1, numbers.shape[1], -1, -1)
    numbers = numbers.unflatten(-1, (groups, cells)).double()
    hidden = int(settings.ratio * cells)
    count = cells - hidden if settings.keep == "attended" else hidden
    picked = _first(_order(settings, ranked, numbers), count)
    return _to_tokens(settings, grid, ~picked if settings.keep == "attended" else picked)


def split_scored(mask: Tensor, masked: int, predicted: int, priorities: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the visible (B, K, V) and the predicted (B, K, P) token indices, int64, ascending, of masks (B, K, N).

    Args:
        masked: M, True in every row; nothing on the device is waited for.
        predicted: P, number of masked tokens that are predicted.
        priorities: (B, K, N) from ``draw_priorities``; None: all are predicted.
    """
    order = mask.to(torch.uint8).argsort(dim=-1, stable=True)
    visible, hidden = order.split((mask.shape[-1] - masked, masked), dim=-1)
    if priorities is None:
        return visible, hidden
    first = priorities.gather(-1, hidden).argsort(dim=-1, stable=True)[..., :predicted]
    return visible, hidden.gather(-1, first.sort(dim=-1).values)


def _order(settings: MaskingSettings, scores: Tensor, numbers: Tensor) -> Tensor:
    """Return indices of cells, the first to be picked in front, of scores and numbers (B, K, groups, cells)."""
    if settings.pick == "multinomial":
        return (numbers / scores.clamp_min(_LEAST)).argsort(dim=-1, stable=True)
    shuffled = numbers.argsort(dim=-1, stable=True)
    by_score = scores.gather(-1, shuffled).argsort(dim=-1, stable=True, descending=settings.pick != "low")
    order = shuffled.gather(-1, by_score)
    if settings.pick != "hint":
        return order
    # Of the first so many in rank, those with the smallest numbers go to the end: the next in rank move up.
    first, hinted = settings.hinted(scores.shape[-1])
    top = order[..., :first]
    lowest = numbers.gather(-1, top).argsort(dim=-1, stable=True)
    left = torch.ones_like(order, dtype=torch.uint8)
    left.scatter_(-1, lowest[..., :hinted], 0)
    return order.gather(-1, left.argsort(dim=-1, stable=True, descending=True))


def _first(order: Tensor, count: int) -> Tensor:
    """Return bool, True at the first ``count`` indices of every row of ``order``."""
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :count], True)


def _cell_scores(settings: MaskingSettings, grid: Grid, scores: Tensor) -> Tensor:
    """Return the mean score of every cell, float64 (B, K, groups, cells), of scores (B, K, N)."""
    t, h, w = grid
    side = settings.cell
    volume = scores.double().unflatten(-1, (t, h // side, side, w // side, side))
    found = volume.mean(dim=(4, 6))
    if settings.ranking == "tube":
        found = found.mean(dim=2, keepdim=True)
    return found.flatten(2)[:, :, None] if settings.ranking == "clip" else found.flatten(3)


def _to_tokens(settings: MaskingSettings, grid: Grid, cells: Tensor) -> Tensor:
    """Return bool (B, K, N) of cells (B, K, groups, cells)."""
    t, h, w = grid
    side = settings.cell
    volume = cells.flatten(2).unflatten(-1, (-1, h // side, 1, w // side, 1))
    return volume.expand(-1, -1, t, -1, side, -1, side).flatten(2)
