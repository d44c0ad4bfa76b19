"""The choices of a block beside its sizes, and the scale of its branches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvd_ds.config import EncoderSettings
from mvd_ds.models.blocks.rotary import ROTATIONS


class BlockStyle(NamedTuple):
    """The choices of a block, by their names in the settings of an encoder; the defaults are those of VideoMAE and MVD."""

    norm: str = "layernorm"
    """A row of ``NORMS``."""
    mlp: str = "gelu"
    """A row of ``MLPS``."""
    layer_scale: float | None = None
    """First value of the factors of both branches, or None for branches without."""
    qk_norm: str = "none"
    """What a norm of queries and keys is taken over: ``head``, ``width`` or none."""
    rotation: str | None = None
    """A row of ``ROTATIONS``, or None where positions are added to tokens."""

    @classmethod
    def of(cls, settings: EncoderSettings) -> BlockStyle:
        """Return the style that settings state."""
        rotation = settings.position if settings.position in ROTATIONS else None
        return cls(settings.norm, settings.mlp, settings.layer_scale, settings.qk_norm, rotation)


PLAIN = BlockStyle()


class LayerScale(nn.Module):
    """A learned factor for every channel of a branch. Source: CaiT, Touvron et al. 2021 (arXiv 2103.17239).

    Args:
        width: D.
        value: what all factors start from.
    """

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the factors to their first value; nothing is drawn."""
        nn.init.constant_(self.weight, self.value)

    def forward(self, branch: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return branch * self.weight
