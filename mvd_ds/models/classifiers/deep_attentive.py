"""The attentive probe of V-JEPA 2: self-attention blocks over frozen tokens, then a learned query that looks at them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, HeadSettings
from mvd_ds.models.blocks.mlps import Mlp
from mvd_ds.models.classifiers.tokens import FrozenTokens, TokenShape
from mvd_ds.models.embed import LearnedToken
from mvd_ds.models.linear import Linear

#: Deviation of initial weights. Source: V-JEPA 2.
STD = 0.02
#: Channels of one attention head where the settings do not say.
HEAD_CHANNELS = 64


class NormalLinear(Linear):
    """``nn.Linear`` that starts from a truncated normal of deviation ``std`` and zero bias."""

    def __init__(self, width: int, out: int, std: float = STD) -> None:
        self.std = std
        super().__init__(width, out)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        nn.init.trunc_normal_(self.weight, std=self.std, generator=generator)
        nn.init.zeros_(self.bias)


class AttentiveBlock(nn.Module):
    """A block of the probe: pre-norm attention, then an MLP, each added to what asks.

    With a query, the query itself asks, without a norm and with no projection behind the attention. Source: V-JEPA 2.

    Args:
        width: D.
        heads: attention heads.
        number: place in the stack from 1; the last map of both branches starts smaller by sqrt(2 * number).
        crosses: whether a query asks, and not the tokens themselves.
    """

    def __init__(self, width: int, heads: int, number: int, crosses: bool) -> None:
        super().__init__()
        self.heads = heads
        last = STD / (2 * number) ** 0.5
        self.norm_tokens = nn.LayerNorm(width)
        self.to_query = NormalLinear(width, width)
        self.to_keys_values = NormalLinear(width, 2 * width)
        self.projection = nn.Identity() if crosses else NormalLinear(width, width, last)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.mlp.expand, self.mlp.contract = NormalLinear(width, 4 * width), NormalLinear(4 * width, width, last)

    def forward(self, tokens: Tensor, query: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D), or to (B, m, D) for a query (B, m, D)."""
        normed = self.norm_tokens(tokens)
        asking, stream = (normed, tokens) if query is None else (query, query)
        queries = self.to_query(asking).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        keys, values = self.to_keys_values(normed).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        stream = stream + self.projection(seen)
        return stream + self.mlp(self.norm_mlp(stream))


class DeepAttentiveHead(nn.Module):
    """Self-attention blocks over the patch tokens, a cross-attention block with one query, and a linear layer.

    Source: V-JEPA 2's probe (four blocks, the last one crosses; 16 heads for a width of 1024).

    Args:
        width: D.
        heads: attention heads.
        blocks: number of blocks, the one of the query included.
        classes: number of classes.
        class_tokens: tokens in front that are left out.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    needs_layers: ClassVar[bool] = False

    @classmethod
    def on(cls, shape: TokenShape, classes: int, settings: HeadSettings) -> DeepAttentiveHead:
        """Return a head for tokens of a shape."""
        heads = settings.heads or max(shape.width // HEAD_CHANNELS, 1)
        return cls(shape.width, heads, settings.blocks, classes, shape.class_tokens)

    def __init__(self, width: int, heads: int, blocks: int, classes: int, class_tokens: int = 0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"head.heads: {heads} heads do not divide tokens of width {width}; set a divisor of it")
        self.class_tokens = class_tokens
        self.query = LearnedToken(width, std=STD)
        self.blocks = nn.ModuleList(AttentiveBlock(width, heads, number, crosses=False) for number in range(1, blocks))
        self.cross = AttentiveBlock(width, heads, max(blocks - 1, 1), crosses=True)
        self.head = NormalLinear(width, classes)

    def forward(self, frozen: FrozenTokens) -> Tensor:
        """Return (B, classes) logits."""
        tokens = frozen.tokens[:, self.class_tokens :]
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.cross(tokens, self.query(len(tokens), 1))[:, 0])
