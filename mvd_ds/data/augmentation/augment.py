"""Random erasing of labelled clips, and the draw of how two of them are mixed (mixup, CutMix)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ErasingSettings, MixSettings

TRIES = 10
"""Boxes drawn until one fits into the frame. Source: timm."""


def erase(clip: Tensor, settings: ErasingSettings, generator: np.random.Generator) -> None:
    """Fill a box of ``clip`` uint8 (C, T, H, W) with noise, in place: the same box in all frames, new noise in each.

    The noise is standard normal in normalised pixels. Differs from the source: it becomes uint8, and 2 % of it are cut off.

    Source: Random Erasing (Zhong et al. 2017), mode "pixel" over a cube, as MVD and VideoMAE.
    """
    if generator.random() >= settings.probability:
        return
    colours, frames, height, width = clip.shape
    for _ in range(TRIES):
        area = generator.uniform(*settings.area) * height * width
        ratio = math.exp(generator.uniform(math.log(settings.ratio), -math.log(settings.ratio)))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < rows < height and 0 < columns < width:
            top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
            noise = generator.standard_normal((colours, frames, rows, columns), dtype=np.float32)
            mean, std = (np.array(values, np.float32)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
            pixels = np.rint((noise * std + mean) * 255).clip(0, 255).astype(np.uint8)
            clip[:, :, top : top + rows, left : left + columns] = torch.from_numpy(pixels)
            return


class Mix(NamedTuple):
    """The mix of a pair of clips: both are mixed alike, each with the other."""

    own_share: float
    """Share of a clip's own label; 1: nothing is mixed."""
    box: tuple[int, int, int, int, int, int]
    """CutMix: first and last + 1 frame, row and column that come from the partner; all 0: the pixels are blended instead."""


UNMIXED = Mix(1.0, (0, 0, 0, 0, 0, 0))


def draw_mix(settings: MixSettings | None, frames: int, size_px: int, generator: np.random.Generator) -> Mix:
    """Draw how a pair of clips of T = ``frames`` and H = W = ``size_px`` is mixed.

    The box has its centre anywhere and is cut at the edges; the label's share is that of the pixels that remain of an H x W
    frame. ``cutmix: published`` keeps that share and takes the box's rows for frames and its columns for rows of the clip,
    over all columns, as image code does that is given a (B, C, T, H, W) tensor.

    Source: mixup (Zhang et al. 2017), CutMix (Yun et al. 2019), timm's ``Mixup`` with a corrected share. Differs: MVD draws once
    for a micro batch and mixes it with itself in reverse; every pair has a draw of its own, so that the layout changes none.
    """
    if settings is None or not (settings.mixup_alpha or settings.cutmix_alpha):
        return UNMIXED
    is_mixed = generator.random() < settings.probability
    cuts = settings.cutmix_alpha > 0 and (settings.mixup_alpha == 0 or generator.random() < settings.cutmix_share)
    alpha = settings.cutmix_alpha if cuts else settings.mixup_alpha
    share = float(generator.beta(alpha, alpha))
    if not is_mixed:
        return UNMIXED
    if not cuts:
        return Mix(share, UNMIXED.box)
    side = int(size_px * math.sqrt(1 - share))
    (top, bottom), (left, right) = (_around(int(generator.integers(size_px)), side, size_px) for _ in range(2))
    kept = 1 - (bottom - top) * (right - left) / size_px**2
    if settings.cutmix == "published":
        return Mix(kept, (min(top, frames), min(bottom, frames), left, right, 0, size_px))
    return Mix(kept, (0, frames, top, bottom, left, right))


def _around(centre: int, length: int, size: int) -> tuple[int, int]:
    return max(centre - length // 2, 0), min(centre + length // 2, size)


def partners(clips: int, clips_per_video: int) -> np.ndarray:
    """Return, int64 (B,), the clip of the micro batch with which each is mixed: the same clip of the neighbouring video.

    Within 2 x ``clips_per_video`` neighbours, so that no pair reaches over the edge of a micro batch, whatever its size.
    """
    rows = np.arange(clips)
    inside = rows % (2 * clips_per_video)
    return rows - inside + (inside + clips_per_video) % (2 * clips_per_video)
