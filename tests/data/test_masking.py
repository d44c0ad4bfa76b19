"""Masks against counts and structure computed independently."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.config import MaskingSettings
from mvd_ds.data.masking import draw_masks, split_tokens
from mvd_ds.data.randomness import keyed_generator


def _masks(kind: str, ratio: float, grid: tuple[int, int, int], masks: int, *keys: int) -> np.ndarray:
    settings = MaskingSettings(kind=kind, ratio=ratio, masks_per_clip=masks)
    return draw_masks(settings, grid, keyed_generator(0, "mask", *keys))


def test_published_counts() -> None:
    tube = _masks("tube", 0.9, (8, 14, 14), 1)
    random = _masks("random", 0.9, (8, 14, 14), 1)
    assert tube.shape == random.shape == (1, 1568)
    assert (tube.sum(), (~tube).sum()) == (1408, 160)
    assert (random.sum(), (~random).sum()) == (1411, 157)
    assert tube.dtype == bool


@pytest.mark.parametrize(("ratio", "grid"), [(0.75, (2, 4, 4)), (0.5, (3, 5, 7)), (0.9, (1, 14, 14)), (0.4, (4, 3, 3))])
def test_every_slot_of_a_tube_mask_is_the_same(ratio: float, grid: tuple[int, int, int]) -> None:
    for mask in _masks("tube", ratio, grid, 3):
        slots = mask.reshape(grid[0], grid[1] * grid[2])
        assert (slots == slots[0]).all()
        assert (slots.sum(axis=1) == np.floor(ratio * grid[1] * grid[2] + 1e-9)).all()


def test_every_token_is_masked_equally_often() -> None:
    for kind in ("tube", "random"):
        share = np.concatenate([_masks(kind, 0.75, (2, 4, 4), 4, number) for number in range(500)]).mean(axis=0)
        assert np.abs(share - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 2000)


def test_masks_of_a_clip_differ_and_earlier_ones_do_not_depend_on_later_ones() -> None:
    four = _masks("random", 0.75, (2, 4, 4), 4, 9)
    assert len({mask.tobytes() for mask in four}) == 4
    assert np.array_equal(four[:2], _masks("random", 0.75, (2, 4, 4), 2, 9))


def test_split_gives_ascending_indices_of_both_halves() -> None:
    mask = np.array([[True, False, True, False, False], [False, False, True, False, True]])
    visible, masked = split_tokens(mask)
    assert visible.tolist() == [[1, 3, 4], [0, 1, 3]]
    assert masked.tolist() == [[0, 2], [2, 4]]
    assert visible.dtype == masked.dtype == np.int64
