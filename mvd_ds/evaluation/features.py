"""Features of clips, what a network is shown of a clip, and the features of raw pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

PIXEL_SLOTS = 8
PIXEL_SIDE = 12


class Features(NamedTuple):
    """Features of S clips, in the order of the batches."""

    features: dict[str, np.ndarray]
    """float32 (S, D) by name."""
    labels: np.ndarray
    """int64 (S, L)."""
    ok: np.ndarray
    """bool (S,), False where the video could not be read and the clip is black: leave these out."""
    rows_per_clip: int = 1
    """Neighbouring rows that are of one clip: a share that chooses holds all of them, or none."""


def pixel_features(clip: Tensor) -> Tensor:
    """Return grey means (B, 8 * 12 * 12) of uint8 (B, C, T, H, W) over 8 slots of time and 12 x 12 squares."""
    grey = clip.float().mean(1) / 255
    return adaptive_avg_pool3d(grey, (PIXEL_SLOTS, PIXEL_SIDE, PIXEL_SIDE)).flatten(1)


def _all(clip: Tensor, first: int, seed: int) -> Tensor:
    """Return the clip as it is."""
    return clip


def _first(clip: Tensor, first: int, seed: int) -> Tensor:
    """Return the first frame, repeated: all that is known without time."""
    return clip[:, :, :1].expand_as(clip)


def _shuffled(clip: Tensor, first: int, seed: int) -> Tensor:
    """Return all frames in a random order: time without its direction. Clip ``first + i`` always gets the same order."""
    frames = clip.shape[2]
    orders = [np.random.default_rng([seed, first + i]).permutation(frames) for i in range(len(clip))]
    return torch.stack([one[:, torch.from_numpy(order)] for one, order in zip(clip, orders, strict=True)])


def _reversed(clip: Tensor, first: int, seed: int) -> Tensor:
    """Return the clip played backwards."""
    return clip.flip(2)


FRAMES: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "all": _all,
    "first": _first,
    "shuffled": _shuffled,
    "reversed": _reversed,
}
"""What a network is shown: (clip (B, C, T, H, W), position of its first clip in the pass, seed) -> clip."""
