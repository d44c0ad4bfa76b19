"""The MLPs that every token passes on its own behind the attention, by their names in the setting ``mlp``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.models.linear import Linear


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = Linear(width, hidden)
        self.contract = Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        return self.contract(F.gelu(self.expand(tokens)))


class QuickMlp(Mlp):
    """Linear, x * sigmoid(1.702 x), Linear. Source: CLIP."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        hidden = self.expand(tokens)
        return self.contract(hidden * torch.sigmoid(1.702 * hidden))


class TanhMlp(Mlp):
    """Linear, GELU by a tanh, Linear. Source: SigLIP."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        return self.contract(F.gelu(self.expand(tokens), approximate="tanh"))


class SwiGlu(nn.Module):
    """A Linear times the SiLU of another one, then a Linear. Source: Shazeer 2020 (arXiv 2002.05202); V-JEPA 2, DINOv3.

    Its hidden width is what ``mlp_ratio`` says; networks that keep the parameters of a two-matrix MLP state two thirds of it.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.expand = Linear(width, hidden)
        self.contract = Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        return self.contract(F.silu(self.gate(tokens)) * self.expand(tokens))


MLPS: dict[str, type[Mlp] | type[SwiGlu]] = {"gelu": Mlp, "swiglu": SwiGlu, "quick_gelu": QuickMlp, "gelu_tanh": TanhMlp}
"""Every MLP: (width, hidden width) -> module; the Linear maps are its only children. Text towers of others have the last two."""
