"""Masks by scores against a plain reference in numpy, one clip and one group of cells at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.config import Grid, MaskingSettings
from mvd_ds.data.masking_scored import draw_numbers, draw_priorities, scored_masks, split_scored
from mvd_ds.data.randomness import keyed_generator

GRID: Grid = (4, 6, 8)


def settings_of(**values: object) -> MaskingSettings:
    return MaskingSettings.model_validate({"kind": "attention", "teacher": "video", "ratio": 0.75, **values})


def numbers_of(settings: MaskingSettings, clips: int, grid: Grid = GRID) -> Tensor:
    return torch.from_numpy(
        np.stack([draw_numbers(settings, grid, keyed_generator(3, "mask", 0, clip)) for clip in range(clips)])
    )


def scores_of(clips: int, grid: Grid = GRID, seed: int = 0) -> Tensor:
    return torch.rand(clips, int(np.prod(grid)), generator=torch.Generator().manual_seed(seed))


def reference(settings: MaskingSettings, grid: Grid, scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The mask (N,) of one clip and one set of numbers, cell by cell."""
    t, h, w = grid
    side = settings.cell
    volume = scores.astype(np.float64).reshape(t, h // side, side, w // side, side).mean(axis=(2, 4))
    if settings.ranking == "tube":
        volume = volume.mean(axis=0, keepdims=True)
    groups = volume.reshape(1 if settings.ranking != "slot" else t, -1)
    picked = np.zeros(groups.shape, bool)
    for group, own, found in zip(groups, numbers.reshape(groups.shape), picked, strict=True):
        hidden = int(settings.ratio * len(group))
        count = len(group) - hidden if settings.keep == "attended" else hidden
        order = sorted(range(len(group)), key=lambda cell: (-group[cell], own[cell]))
        if settings.pick == "low":
            order = sorted(range(len(group)), key=lambda cell: (group[cell], own[cell]))
        if settings.pick == "multinomial":
            order = sorted(range(len(group)), key=lambda cell: float(own[cell]) / group[cell])
        if settings.pick == "hint":
            first = int(settings.hint_from * len(group))
            share = settings.ratio if settings.hint_share is None else settings.hint_share
            shown = sorted(order[:first], key=lambda cell: own[cell])[: int(share * first)]
            order = [cell for cell in order if cell not in shown]
        found[order[:count]] = True
    cells = picked.reshape(-1, h // side, w // side) ^ (settings.keep == "attended")
    return np.broadcast_to(cells.repeat(side, axis=1).repeat(side, axis=2), grid).reshape(-1)


@pytest.mark.parametrize("pick", ["high", "low", "hint", "multinomial"])
@pytest.mark.parametrize("ranking", ["slot", "tube", "clip"])
def test_masks_equal_a_plain_reference(pick: str, ranking: str) -> None:
    settings = settings_of(pick=pick, ranking=ranking, hint_from=0.25, cell=2)
    scores, numbers = scores_of(3), numbers_of(settings, 3)
    masks = scored_masks(settings, GRID, scores, numbers)
    for mask, row, own in zip(masks[:, 0].numpy(), scores.numpy(), numbers[:, 0].numpy(), strict=True):
        assert np.array_equal(mask, reference(settings, GRID, row, own))


def test_counts_are_exact_in_a_thousand_random_cases() -> None:
    """Every ratio, grid, cell, ranking and pick, with scores that are equal, zero, enormous or tiny here and there."""
    random = np.random.default_rng(0)
    picks = [("high", "rest"), ("low", "rest"), ("hint", "rest"), ("multinomial", "rest")]
    picks += [("high", "attended"), ("multinomial", "attended")]
    kinds = itertools.cycle(itertools.product(picks, ("slot", "tube", "clip")))
    for case, (pick, ranking) in zip(range(1000), kinds, strict=False):
        cell = int(random.integers(1, 3))
        grid = (int(random.integers(1, 5)), cell * int(random.integers(2, 6)), cell * int(random.integers(2, 6)))
        masks = int(random.integers(1, 4)) if pick[0] in ("hint", "multinomial") else 1
        settings = settings_of(
            pick=pick[0], keep=pick[1], ranking=ranking, cell=cell, ratio=random.uniform(0.05, 0.95), masks_per_clip=masks,
            temperature=random.uniform(0.2, 3), hint_from=0.3, hint_share=0.3, decoder="random",
        )  # fmt: skip
        wanted = settings.masked_tokens(grid)
        scores = scores_of(2, grid, case) ** random.integers(1, 30)
        scores[random.random(scores.shape) < 0.2] = 0.0
        numbers = numbers_of(settings, 2, grid)
        mask = scored_masks(settings, grid, scores, numbers)
        assert mask.shape == (2, masks, scores.shape[1]) and (mask.sum(dim=-1) == wanted).all(), settings
        priorities = np.stack([draw_priorities(settings, grid, keyed_generator(0, "decoder_mask", clip)) for clip in range(2)])
        predicted = wanted - wanted // 2
        visible, masked = split_scored(mask, wanted, predicted, torch.from_numpy(priorities))
        assert masked.shape[-1] == predicted and (visible.shape[-1] == scores.shape[1] - wanted)
        assert mask.gather(-1, masked).all() and not mask.gather(-1, visible).any()
        assert (masked.diff() > 0).all() and (visible.diff() > 0).all()


def test_high_hides_the_complement_of_what_low_scores_keep_visible() -> None:
    scores = scores_of(4)
    for ranking in ("slot", "tube", "clip"):
        high, kept = settings_of(ranking=ranking, ratio=0.75), settings_of(ranking=ranking, ratio=0.25, keep="attended")
        hidden = scored_masks(high, GRID, scores, numbers_of(high, 4))
        top_hidden = ~scored_masks(kept, GRID, scores, numbers_of(kept, 4))
        assert torch.equal(hidden, top_hidden)  # the top three quarters: hidden by the one, kept visible by the other


def test_the_count_of_clip() -> None:
    """A-CLIP keeps 25 of 49 cells of 2 x 2 of 14 x 14 patches: 100 of 196."""
    settings = settings_of(keep="attended", cell=2, blocks="all", ratio=0.5)
    assert 196 - settings.masked_tokens((1, 14, 14)) == 100


def test_a_hint_shows_the_very_highest_and_hides_the_next_in_rank() -> None:
    scores = torch.arange(100, 0, -1).float()[None]
    settings = settings_of(pick="hint", ratio=0.4, hint_from=0.1, hint_share=0.3, masks_per_clip=2)
    masks = scored_masks(settings, (1, 10, 10), scores, numbers_of(settings, 1, (1, 10, 10)))[0]
    for mask in masks:
        shown = (~mask[:10]).sum()
        assert shown == 3 and mask[10:43].all() and not mask[43:].any()
    assert not torch.equal(*masks)


def test_a_multinomial_draws_in_proportion_to_the_score_and_the_temperature() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for temperature in (1.0, 0.5):
        settings = settings_of(pick="multinomial", ratio=0.25, temperature=temperature, masks_per_clip=4000)
        shares = scored_masks(settings, (1, 2, 2), scores, numbers_of(settings, 1, (1, 2, 2)))[0].float().mean(dim=0)
        expected = scores[0] ** (1 / temperature) / (scores[0] ** (1 / temperature)).sum()
        assert (shares - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_a_mask_depends_on_its_own_clip_and_number_alone() -> None:
    settings = settings_of(pick="multinomial", masks_per_clip=3)
    scores, numbers = scores_of(4), numbers_of(settings, 4)
    together = scored_masks(settings, GRID, scores, numbers)
    assert torch.equal(scored_masks(settings, GRID, scores[2:3], numbers[2:3]), together[2:3])
    fewer = settings_of(pick="multinomial", masks_per_clip=2)
    assert torch.equal(scored_masks(fewer, GRID, scores, numbers_of(fewer, 4)), together[:, :2])


def test_cells_of_equal_score_are_in_a_random_order() -> None:
    settings = settings_of(pick="high", ratio=0.5, ranking="clip")
    masks = scored_masks(settings, GRID, torch.zeros(400, 192), numbers_of(settings, 400))[:, 0].float().mean(dim=0)
    assert (masks - 0.5).abs().max() < 5 * (0.25 / 400) ** 0.5
