"""Settings of the targets that a student learns to predict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mvd_ds.config.base import Settings
from mvd_ds.config.losses import Loss


class TargetSettings(Settings):
    """The features of a teacher that are predicted."""

    blocks: tuple[int, ...] = (-1,)
    """Block outputs to use; -1 is the last; several are averaged. Source: MVD, last block."""
    norm: Literal["none", "final"] = "none"
    """none: before the final norm, as published; final: through the teacher's own final norm."""
    normalise: bool = False
    """LayerNorm without parameters (eps 1e-6) on every target token (``--norm_feature`` of the reference)."""


class PixelSettings(Settings):
    """Stage one: the target is the pixels of a masked patch."""

    normalise: Literal["per_channel", "joint", "none"] = "per_channel"
    """per_channel: VideoMAE, mean and variance of each colour of a patch; joint: MAE, over all colours; none: raw."""
    variance_floor: Annotated[float, Field(ge=0.0)] = 0.0
    """Added to the variance before the root, so that codec noise in flat patches stays small. Pixels are in [0, 1], or
    standardised by ImageNet's mean and deviation where normalise is joint."""
    loss: Loss = "l2"
    """Between prediction and pixels, in fp32, mean over all elements; or a mixture by weight, as ``teachers.NAME.loss``.
    Source: VideoMAE and MAE, L2."""
