"""What networks are shown of a clip, and what raw pixels tell."""

import numpy as np
import torch
from torch import Tensor

from mvd_ds.evaluation.features import FRAMES, pixel_features

CLIPS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 16, 24, 24), dtype=np.uint8))


def time_profile(clip: Tensor) -> Tensor:
    return clip.double().mean((1, 3, 4))


def test_the_first_frame_is_all_that_is_shown() -> None:
    shown = FRAMES["first"](CLIPS, 0, 0)
    assert shown.shape == CLIPS.shape
    assert all(torch.equal(shown[:, :, time], CLIPS[:, :, 0]) for time in range(16))


def test_shuffled_frames_are_the_same_frames_in_another_order() -> None:
    shown = FRAMES["shuffled"](CLIPS, 0, 0)
    before, after = time_profile(CLIPS), time_profile(shown)
    assert torch.equal(before.sort(1).values, after.sort(1).values)
    orders = [tuple(row.argsort().argsort().tolist()) for row in after]
    assert len(set(orders)) == 7
    assert not (before == after).all(1).any()


def test_the_order_depends_on_the_clip_and_the_seed_and_not_on_the_batch() -> None:
    def shuffled(size: int, seed: int) -> Tensor:
        return torch.cat([FRAMES["shuffled"](CLIPS[first : first + size], first, seed) for first in range(0, 7, size)])

    assert torch.equal(shuffled(2, 0), shuffled(7, 0))
    assert not torch.equal(shuffled(7, 0), shuffled(7, 1))


def test_pixel_features_are_grey_means() -> None:
    found = pixel_features(CLIPS).reshape(7, 8, 12, 12)
    for slot, row, column in ((0, 0, 0), (7, 11, 11), (3, 5, 9)):
        block = CLIPS[:, :, 2 * slot : 2 * slot + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        torch.testing.assert_close(found[:, slot, row, column], block.double().mean((1, 2, 3, 4)).float() / 255)
    assert pixel_features(CLIPS[:, :, :3, :10, :10]).shape == (7, 1152), "any length and size"
