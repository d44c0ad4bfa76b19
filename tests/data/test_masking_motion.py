"""Scores by motion on clips whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.config import Grid, MaskingSettings
from mvd_ds.data.masking_motion import block_motion, frame_differences, motion_scores
from mvd_ds.data.masking_scored import draw_numbers, scored_masks
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.synthetic.rendering import Glyphs, draw_scene, read_glyphs

GRID: Grid = (4, 4, 4)
PATCH = 8


def noise(frames: int, down: int, right: int) -> Tensor:
    """A clip (1, 3, frames, 32, 32) of noise that moves by so many pixels a frame."""
    big = torch.randint(0, 256, (1, 3, 128, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rows = [big[..., 48 - down * f : 80 - down * f, 48 - right * f : 80 - right * f] for f in range(frames)]
    return torch.stack(rows, dim=2)


def numbers_of(settings: MaskingSettings) -> Tensor:
    return torch.from_numpy(draw_numbers(settings, GRID, keyed_generator(0, "mask", 0, 0)))[None]


def test_a_patch_that_changes_scores_by_how_much_it_changes() -> None:
    clip = torch.full((1, 3, 8, 32, 32), 100, dtype=torch.uint8)
    clip[:, :, 5, 8:16, 24:32] = 90  # slot 2, second frame: changes to it, and to slot 3
    scores = frame_differences(GRID, clip).view(GRID)
    change = 10 * 3 * PATCH**2
    assert scores[2, 1, 3] == 2 * change and scores.sum() == 2 * change
    clip[:, :, 7] += 1  # the last change counts for the last frame, too
    assert (frame_differences(GRID, clip).view(GRID)[3] == 2 * 3 * PATCH**2).all()


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-1, 2), (2, -2)])
def test_block_matching_finds_the_motion_of_a_clip(down: int, right: int) -> None:
    motion = block_motion(GRID, noise(8, down, right), 6)[0]
    inner = motion[:, 1:3, 1:3].flatten(1, 2)
    for slot, towards in enumerate((1, 1, -1, -1)):  # slots 0 and 1 look ahead to the middle, 2 and 3 back
        assert (inner[slot] == torch.tensor((2 * towards * down, 2 * towards * right))).all()
    scores = motion_scores(
        MaskingSettings(kind="motion", motion="block_matching", motion_px=6), GRID, noise(8, down, right), torch.empty(0)
    )
    assert scores.view(GRID)[:, 1:3, 1:3].unique().item() == pytest.approx(2 * (down**2 + right**2) ** 0.5)


def test_flat_patches_stand_still() -> None:
    assert not block_motion(GRID, torch.full((2, 3, 8, 32, 32), 7, dtype=torch.uint8), 8).any()


def test_a_warped_mask_follows_what_moves() -> None:
    """Content that moves by a patch from slot to slot takes its mask along, and every slot hides as many."""
    settings = MaskingSettings(kind="motion", motion="block_matching", pick="warp", ratio=0.5, motion_px=PATCH)
    clip = noise(8, 0, PATCH // 2)
    scores = motion_scores(settings, GRID, clip, numbers_of(settings))
    assert scores.shape == (1, 1, 64)
    volume = scores.view(GRID)
    middle = numbers_of(settings).view(GRID)[2]
    assert torch.equal(volume[2], middle)
    assert torch.equal(volume[3][:, 1:], middle[:, :-1]) and torch.equal(volume[1][:, :-1], middle[:, 1:])
    assert torch.equal(volume[0][:, :2], middle[:, 2:])
    masks = scored_masks(settings, GRID, scores, numbers_of(settings))
    assert (masks.view(GRID).sum(dim=(1, 2)) == 8).all()


def test_a_still_clip_has_the_mask_of_its_middle_everywhere() -> None:
    settings = MaskingSettings(kind="motion", motion="block_matching", pick="warp", ratio=0.75, cell=2, masks_per_clip=3)
    numbers = numbers_of(settings)
    scores = motion_scores(settings, GRID, noise(8, 0, 0), numbers)
    masks = scored_masks(settings, GRID, scores, numbers).view(3, *GRID)
    assert (masks == masks[:, :1]).all() and len(np.unique(masks.flatten(1).numpy(), axis=0)) > 1


@pytest.mark.parametrize(("pick", "least"), [("high", 2.5), ("multinomial", 1.7)])
def test_what_changes_on_the_sample_set_is_the_digit(pick: str, least: float) -> None:
    """A quarter of the tokens hides ``least`` quarters of the digit's pixels or more, where masks at random hide one."""
    glyphs, found = read_glyphs(0)["val"], []
    settings, grid = MaskingSettings(kind="motion", pick=pick, ratio=0.25), (6, 4, 4)
    for index in range(40):
        clip = torch.from_numpy(draw_scene(glyphs, 0, "val", index, 48, 12).pixels).permute(3, 0, 1, 2)[None]
        numbers = torch.from_numpy(draw_numbers(settings, grid, keyed_generator(0, "mask", 0, index)))[None]
        mask = scored_masks(settings, grid, motion_scores(settings, grid, clip, numbers), numbers).view(grid)
        digit = drawn_digit(glyphs, index).unflatten(2, (4, 12)).unflatten(1, (4, 12)).unflatten(0, (6, 2)).sum(dim=(1, 3, 5))
        found.append(float((digit * mask).sum() / digit.sum()))
    assert np.mean(found) > least * 0.25


def drawn_digit(glyphs: Glyphs, index: int) -> Tensor:
    """Where the digit of a clip of the sample set is drawn, float (T, H, W) of 0 and 1: what the clip is with it and without."""
    blank = Glyphs(np.zeros_like(glyphs.images), glyphs.digits)
    pair = [draw_scene(each, 0, "val", index, 48, 12).pixels.astype(np.int16) for each in (glyphs, blank)]
    return torch.from_numpy((np.abs(pair[0] - pair[1]).max(axis=-1) > 32).astype(np.float32))
