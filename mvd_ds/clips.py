"""Clips and masks from Python: from a video file to the tensors that models take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ClipSettings, ConfigError, Grid, MaskingSettings, Settings
from mvd_ds.data import masking as masking_of
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.data.readers.decode import DecodeError, open_video
from mvd_ds.data.views import cut_views
from mvd_ds.files import did_you_mean, one_line

Kind = TypeVar("Kind", bound=Settings)


def read_clip(
    video: str | Path,
    clip: ClipSettings | Mapping[str, Any] | None = None,
    segments: int = 1,
    crops: int = 1,
) -> Tensor:
    """Return views of a video file as a test has them, uint8 (segments * crops, C, T, H, W).

    ``mvd_ds.normalise`` makes of them what models take.

    Args:
        video: video file.
        clip: settings as under ``data.clip`` of a recipe: ``{"frames": 8, "stride_frames": 2, "size_px": 112}``.
        segments: number of clips along the video; a single one is its middle.
        crops: number of crops of each clip, along the long side.

    Raises:
        ConfigError: if the file cannot be read, or a setting is wrong.
    """
    wanted = _validated("clip", ClipSettings, clip or {})
    try:
        with open_video(str(video)) as opened:
            return cut_views(opened, wanted, segments, crops)
    except DecodeError as error:
        raise ConfigError(f"{one_line(video)}: cannot be read: {error}") from None


def draw_masks(masking: Mapping[str, Any] | MaskingSettings, grid: Grid, clips: int = 1, seed: int = 0, first: int = 0) -> Tensor:
    """Draw masks of whole clips, bool (clips, K, N), True = masked.

    Args:
        masking: settings as under ``masking`` of a recipe: ``{"kind": "tube", "ratio": 0.9, "masks_per_clip": 2}``.
        grid: token grid (t, h, w), as ``encoder.grid`` has it.
        clips: number of clips.
        seed: seed of the masks.
        first: number of the first clip; clip n of a seed always has the same masks.

    Raises:
        ConfigError: if a setting is wrong, or the kind of masks is drawn from a teacher's attention or a clip's motion.
    """
    settings = _validated("masking", MaskingSettings, masking)
    rows = [masking_of.draw_masks(settings, grid, keyed_generator(seed, "api masks", first + n)) for n in range(clips)]
    return torch.from_numpy(np.stack(rows))


def normalise(clips: Tensor) -> Tensor:
    """Return uint8 clips (B, C, T, H, W) as models take them: fp32, by ImageNet's mean and deviation.

    Raises:
        ConfigError: if the clips are not uint8.
    """
    if clips.dtype != torch.uint8 or clips.ndim != 5:
        raise ConfigError(f"normalise takes uint8 (B, C, T, H, W), got {clips.dtype} {tuple(clips.shape)}")
    mean, std = (torch.tensor(values, device=clips.device).view(1, 3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (clips.float() / 255 - mean) / std


def _validated(name: str, kind: type[Kind], values: Mapping[str, Any] | Kind) -> Kind:
    if isinstance(values, kind):
        return values
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join([name, *map(str, fault["loc"])])
        hint = did_you_mean(fault["loc"][-1], kind.model_fields) if fault["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{where}: {hint or fault['msg']}") from None
