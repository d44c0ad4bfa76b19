"""Clips normalised by ImageNet's numbers, renormalised to the mean and deviation that a network was trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD

Colours = tuple[float, ...]


class Renormalised(nn.Module):
    """The map x -> (x * ImageNet's deviation + ImageNet's mean - mean) / std, by colour; nothing where the two agree.

    Args:
        mean: mean of each colour that the network expects, of pixels in [0, 1].
        std: their deviation.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Colours, std: Colours) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        with torch.device("cpu"):
            scale = torch.tensor([here / there for here, there in zip(IMAGENET_STD, std, strict=True)])
            shift = torch.tensor([(here - there) / its for here, there, its in zip(IMAGENET_MEAN, mean, std, strict=True)])
        self.is_needed = max(float((scale - 1).abs().max()), float(shift.abs().max())) > 1e-5
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Map (B, C, ..., H, W)."""
        if not self.is_needed:
            return clip
        shape = (-1, *(1 for _ in clip.shape[2:]))
        return clip * self.scale.to(clip.dtype).view(shape) + self.shift.to(clip.dtype).view(shape)
