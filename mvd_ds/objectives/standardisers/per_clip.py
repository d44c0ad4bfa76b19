"""Standardisation of every channel over the tokens of its clip."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mvd_ds.objectives.standardisers.standardiser import STABILISER, Standardiser


class ClipStandardiser(Standardiser):
    """Each channel less its mean over the clip's tokens, over its deviation there. Source: SMILE (CVPR 2025), SIGMA."""

    invertible: ClassVar[bool] = False
    whole_clip: ClassVar[bool] = True

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, N, D) fp32, every channel with mean 0 and biased variance 1 over the N tokens of a clip."""
        variance, mean = torch.var_mean(features.float(), dim=-2, correction=0, keepdim=True)
        return (features.float() - mean) * (variance + STABILISER).rsqrt()
