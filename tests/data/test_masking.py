"""Masks against counts and structure computed independently."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.config import MaskingSettings
from mvd_ds.data.masking import draw_masks, predicted_tokens, running_cell, split_tokens
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


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9, 0.97])
@pytest.mark.parametrize("duration", [1.0, 0.5])
def test_blocks_are_exact_in_count(ratio: float, duration: float) -> None:
    settings = MaskingSettings(kind="multi_block", ratio=ratio, masks_per_clip=3, block_duration=duration)
    for number in range(20):
        masks = draw_masks(settings, (8, 14, 14), keyed_generator(0, "mask", number))
        assert (masks.sum(axis=1) == int(ratio * 1568)).all()


def test_blocks_hold_together() -> None:
    """A masked place has masked neighbours, and is masked from the first slot to the last, but for one column that was cut."""
    settings = MaskingSettings(kind="multi_block", ratio=0.5, block_scales=(0.15,))
    for number in range(20):
        mask = draw_masks(settings, (8, 14, 14), keyed_generator(0, "mask", number)).reshape(8, 14, 14)
        assert (mask.any(axis=0) != mask.all(axis=0)).sum() <= 1
        whole = mask.any(axis=0)
        padded = np.pad(whole, 1)
        neighbours = padded[:-2, 1:-1].astype(int) + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        assert neighbours[whole].mean() > 3, "a random mask of this share has 2 of 4"


def test_long_blocks_are_fewer_than_short_ones() -> None:
    """With blocks of 0.15 and 0.7 of the frame in turn, the second mask has the shorter edge."""
    settings = MaskingSettings(kind="multi_block", ratio=0.7, masks_per_clip=2)
    edges = np.zeros(2)
    for number in range(50):
        masks = draw_masks(settings, (2, 14, 14), keyed_generator(0, "mask", number)).reshape(2, 2, 14, 14)[:, 0]
        edges += [np.abs(np.diff(mask.astype(int), axis=axis)).sum() for mask in masks for axis in (0,)]
    assert edges[1] < 0.8 * edges[0]


def test_ratios_that_no_number_of_blocks_reaches_are_filled_up() -> None:
    settings = MaskingSettings(kind="multi_block", ratio=0.999, block_scales=(0.005,))
    (mask,) = draw_masks(settings, (4, 20, 20), keyed_generator(0, "mask"))
    assert mask.sum() == int(0.999 * 1600)


def test_the_running_cell_visits_every_place_equally_often() -> None:
    settings = MaskingSettings(decoder="running_cell", decoder_ratio=0.5)
    starts = set()
    for number in range(40):
        kept = running_cell(settings, (8, 14, 14), keyed_generator(0, "t", number)).reshape(8, 14, 14)
        assert (kept.sum(axis=0) == 4).all() and (kept.reshape(8, -1).sum(axis=1) == 98).all()
        cells = kept.reshape(8, 7, 2, 7, 2).transpose(0, 1, 3, 2, 4).reshape(8, 49, 4)
        assert (cells == cells[:, :1]).all(), "every cell the same"
        assert (kept[4:] == kept[:4]).all() and (kept[1:] != kept[:-1]).any(axis=(1, 2)).all(), "it runs"
        starts.add(kept[0].tobytes())
    assert len(starts) == 4
    quarter = MaskingSettings(decoder="running_cell", decoder_ratio=0.75)
    assert (running_cell(quarter, (4, 6, 6), keyed_generator(0, "t")).reshape(4, 6, 6).sum(axis=0) == 1).all()


@pytest.mark.parametrize("kind", ["tube", "random", "multi_block"])
@pytest.mark.parametrize("decoder", ["all", "running_cell", "random"])
@pytest.mark.parametrize(("grid", "ratio"), [((8, 14, 14), 0.5), ((3, 5, 7), 0.5), ((2, 4, 4), 0.3), ((1, 6, 6), 0.6)])
def test_predicted_tokens_are_masked_ones_exact_in_count(
    kind: str, decoder: str, grid: tuple[int, int, int], ratio: float
) -> None:
    settings = MaskingSettings(kind=kind, ratio=0.8, masks_per_clip=2, decoder=decoder, decoder_ratio=ratio)
    _, masked = split_tokens(draw_masks(settings, grid, keyed_generator(0, "mask")))
    count = masked.shape[1] if decoder == "all" else masked.shape[1] - int(ratio * masked.shape[1])
    predicted = predicted_tokens(settings, grid, masked, count, keyed_generator(0, "decoder_mask"))
    assert predicted.shape == (2, count)
    assert (np.diff(predicted, axis=1) > 0).all()
    assert all(set(some) <= set(everything) for some, everything in zip(predicted, masked, strict=True))


def test_tube_and_running_cell_meet_in_exactly_half_without_any_drawn() -> None:
    settings = MaskingSettings(kind="tube", ratio=0.9, decoder="running_cell")
    _, masked = split_tokens(draw_masks(settings, (8, 14, 14), keyed_generator(0, "mask")))
    predicted = predicted_tokens(settings, (8, 14, 14), masked, 704, keyed_generator(0, "decoder_mask"))
    kept = np.flatnonzero(running_cell(settings, (8, 14, 14), keyed_generator(0, "decoder_mask")))
    assert predicted[0].tolist() == sorted(set(kept) & set(masked[0]))
