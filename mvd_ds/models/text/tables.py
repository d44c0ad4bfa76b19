"""Tables of learned vectors: one for each token of a vocabulary, or for each place of a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TokenTable(nn.Module):
    """A learned vector for each number.

    Args:
        count: how many numbers there are.
        width: width of a vector.
        deviation: standard deviation of the initial weights. Source: CLIP, 0.02 for tokens and 0.01 for places.
    """

    def __init__(self, count: int, width: int, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation
        self.weight = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        nn.init.normal_(self.weight, std=self.deviation, generator=generator)

    def forward(self, numbers: Tensor) -> Tensor:
        """Map int64 (...) to (..., width)."""
        return functional.embedding(numbers, self.weight)
