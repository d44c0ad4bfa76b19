"""The base class of standardisers, which leaves features as they are."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.objectives.moving_statistics import Statistics

STABILISER = 1e-6
"""Keeps a flat patch, a constant token or a constant channel from dividing by zero. Source: VideoMAE, MAE, MVD, all 1e-6."""


class Standardiser(Statistics):
    """A change of the scale of a teacher's features before they become targets; this one changes nothing.

    Args:
        width: D, channels of a token.
        name: name of the target, for messages.
        size: number of sums that a step collects.
    """

    invertible: ClassVar[bool] = True
    """True where features come back from standardised ones without knowing the clip."""
    whole_clip: ClassVar[bool] = False
    """True where all tokens of a clip have to be there, not only those that are predicted."""

    def __init__(self, width: int, name: str, size: int = 0) -> None:
        super().__init__(size)
        self.width, self.name = width, name

    def forward(self, features: Tensor) -> Tensor:
        """Return the standardised features.

        Args:
            features: (..., D), or (..., N, D) where the statistics are a clip's own.

        Returns:
            Of the same shape, fp32 where anything was computed.
        """
        return features

    def inverse(self, standardised: Tensor) -> Tensor:
        """Return the features (..., D) that ``forward`` standardised.

        Raises:
            ConfigError: if they were standardised by statistics of their own clip or token, which are not kept.
        """
        if not self.invertible:
            raise ConfigError(
                f"target {self.name}: its standardisation uses statistics of each clip or token, which nobody keeps, so that it "
                "cannot be undone; running and phi_s can"
            )
        undo = self.undo()
        if undo is None:
            return standardised
        factor, shift, rotation = undo
        scaled = standardised.float() * factor
        return shift + (scaled if rotation is None else scaled @ rotation)

    def undo(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return (factor (D,), shift (D,), rotation (D, D) or None), by which a standardised y comes back as shift +
        (y * factor) @ rotation; None where nothing was standardised, or nothing can be undone."""
        return None

    def observe(self, features: Tensor, standardised: Tensor) -> None:
        """Collect from the tokens of one micro batch: ``features`` (..., D) and what ``forward`` made of them."""

    def flops(self, tokens: int) -> int:
        """Return the operations of matrix products that it takes to standardise ``tokens`` tokens."""
        return 0
