"""Linear maps with the initial weights of MAE, VideoMAE and MVD."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """``nn.Linear`` that starts from Xavier-uniform weights and zero bias."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class QueryKeyValue(nn.Module):
    """The packed projection of tokens to queries, keys and values.

    ``query_value`` has learned biases for queries and values and none for keys (softmax does not see a key bias: it
    adds the same number to a whole row). Source: BEiT, VideoMAE, MVD. ``full`` has one bias for all three. Source: timm, MAE.
    """

    def __init__(self, width: int, bias: Literal["query_value", "full"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.full_bias = bias == "full"
        if self.full_bias:
            self.bias = nn.Parameter(torch.empty(3 * width))
        else:
            self.q_bias = nn.Parameter(torch.empty(width))
            self.v_bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights: Xavier-uniform over the packed (3D, D) matrix, zero biases."""
        nn.init.xavier_uniform_(self.weight, generator=generator)
        for bias in (self.bias,) if self.full_bias else (self.q_bias, self.v_bias):
            nn.init.zeros_(bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, 3D): queries, then keys, then values."""
        return F.linear(tokens, self.weight, self.packed_bias())

    def packed_bias(self) -> Tensor:
        """Return the bias (3D,), of which the part for keys is zeros unless ``full``."""
        if self.full_bias:
            return self.bias
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
