"""Crops of uint8 clips: one box per clip, resized for every view."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvd_ds.config import ClipSettings

SCALES = (1.0, 0.875, 0.75, 0.66)
"""Crop sides as shares of the short side. Source: MVD 1.6, multi-scale crop."""
SNAP_PX = 3
"""Distance within which a side snaps to the wanted one, so that nothing is resampled. Source: TSN, multi-scale crop."""
#: (vertical, horizontal) quarters of the free space: corners, edges, centre, and four points between. Source: MVD 1.6.
POSITIONS = tuple((y, x) for y in (0, 2, 4) for x in (0, 2, 4)) + tuple((y, x) for y in (1, 3) for x in (1, 3))
_PAIRS = tuple((i, j) for i in range(len(SCALES)) for j in range(len(SCALES)) if abs(i - j) <= 1)


class Box(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def multiscale_box(height: int, width: int, size_px: int, generator: np.random.Generator) -> Box:
    """Draw MVD's crop: sides are scales of the short side at most one step apart, at one of 13 fixed positions."""
    short = min(height, width)
    sides = [size_px if abs(int(short * s) - size_px) < SNAP_PX and size_px <= short else int(short * s) for s in SCALES]
    i, j = _PAIRS[int(generator.integers(len(_PAIRS)))]
    down, right = POSITIONS[int(generator.integers(len(POSITIONS)))]
    crop_height, crop_width = max(sides[i], 1), max(sides[j], 1)
    return Box(down * ((height - crop_height) // 4), right * ((width - crop_width) // 4), crop_height, crop_width)


def random_resized_box(
    height: int, width: int, size_px: int, generator: np.random.Generator, area_share: tuple[float, float] = (0.2, 1.0)
) -> Box:
    """Draw a box of ``area_share`` of the frame, ratio log-uniform in (3/4, 4/3), any position. Source: MAE; Inception."""
    for _ in range(10):
        area = height * width * generator.uniform(*area_share)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height + 1))
            left = int(generator.integers(width - crop_width + 1))
            return Box(top, left, crop_height, crop_width)
    # No box of such a ratio fits a very long frame: the largest middle part within the ratios.
    crop_width, crop_height = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def center_box(height: int, width: int, size_px: int = 0, generator: np.random.Generator | None = None) -> Box:
    """Return the largest square in the middle of a frame."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


CROPS: dict[str, Callable[[int, int, int, np.random.Generator], Box]] = {
    "multiscale": multiscale_box,
    "random_resized": random_resized_box,
    "center": center_box,
}


def draw_box(height: int, width: int, clip: ClipSettings, generator: np.random.Generator) -> Box:
    """Draw the crop of a training clip from frames of a size."""
    if clip.crop == "random_resized":
        return random_resized_box(height, width, clip.size_px, generator, clip.crop_area)
    return CROPS[clip.crop](height, width, clip.size_px, generator)


def cut(
    frames: np.ndarray, box: Box, size_px: int, flip: bool = False, interpolation: str = "bilinear", antialias: bool = True
) -> Tensor:
    """Return the box of ``frames`` uint8 (T, H, W, C) resized to uint8 (C, T, size_px, size_px); a view if no resizing is needed.

    In integers, all frames alike; antialiased within a grey level of Pillow's, in a tenth of its time. Nothing becomes a float
    before the device.
    """
    part = torch.from_numpy(frames)[:, box.top : box.top + box.height, box.left : box.left + box.width]
    part = part.permute(0, 3, 1, 2)
    if (box.height, box.width) != (size_px, size_px):
        part = F.interpolate(part, size=(size_px, size_px), mode=interpolation, antialias=antialias, align_corners=False)
    return (part.flip(-1) if flip else part).transpose(0, 1)
