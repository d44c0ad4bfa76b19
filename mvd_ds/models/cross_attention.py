"""Attention of queries to other tokens, the block around it, and mixtures of an encoder's levels to look at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.models.attention import choose_kernel
from mvd_ds.models.blocks.rotary import rotate
from mvd_ds.models.layers import NORM_EPS, Mlp
from mvd_ds.models.linear import Linear


class CrossAttention(nn.Module):
    """Multi-head attention of queries to the tokens of a source.

    Args:
        width: D, width of a query.
        source: width of a token of the source.
        heads: number of heads; d = D / heads.
        kernel: ``auto``, ``flash_attn``, ``sdpa`` or ``eager``.
        rotation: a row of ``ROTATIONS``, or None.
    """

    def __init__(self, width: int, source: int, heads: int, kernel: str = "auto", rotation: str | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.kernel = kernel
        self.rotation = rotation
        self.query = Linear(width, width)
        self.key_value = Linear(source, 2 * width)
        self.projection = Linear(width, width)

    def forward(self, queries: Tensor, source: Tensor, turns: Tensor | None = None, source_turns: Tensor | None = None) -> Tensor:
        """Map queries (B, M, D) and a source (B, V, its width) to (B, M, D); both have turns where there is a rotation."""
        assert (turns is None) == (source_turns is None) == (self.rotation is None), "turns are for rotary positions"
        query = self.query(queries).unflatten(-1, (self.heads, -1))
        key_value = self.key_value(source).unflatten(-1, (2, self.heads, -1))
        if self.rotation is not None and turns is not None and source_turns is not None:
            key, value = key_value.unbind(2)
            query = rotate(query, turns, self.rotation)
            key_value = torch.stack((rotate(key, source_turns, self.rotation), value), dim=2)
        kernel, _ = choose_kernel(self.kernel, query.device, query.dtype, query.shape[-1])
        return self.projection(CROSS_KERNELS[kernel](query, key_value).flatten(-2))


def eager_cross_attention(query: Tensor, key_value: Tensor) -> Tensor:
    """Map (B, M, heads, d) and (B, V, 2, heads, d) to (B, M, heads, d), with the (M, V) matrix of weights in memory."""
    key, value = key_value.permute(2, 0, 3, 1, 4)
    weights = (query.transpose(1, 2) * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return (weights.softmax(dim=-1) @ value).transpose(1, 2)


def sdpa_cross_attention(query: Tensor, key_value: Tensor) -> Tensor:
    """Map (B, M, heads, d) and (B, V, 2, heads, d) to (B, M, heads, d) by torch's own fused kernels."""
    key, value = key_value.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query.transpose(1, 2), key, value).transpose(1, 2)


def flash_cross_attention(query: Tensor, key_value: Tensor) -> Tensor:
    """Map (B, M, heads, d) and (B, V, 2, heads, d) to (B, M, heads, d) by the flash-attn package."""
    from flash_attn import flash_attn_kvpacked_func

    return flash_attn_kvpacked_func(query, key_value)


CROSS_KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eager": eager_cross_attention,
    "sdpa": sdpa_cross_attention,
    "flash_attn": flash_cross_attention,
}
"""The kernels of ``attention.KERNELS`` for numbers of queries and of keys that differ."""


class CrossBlock(nn.Module):
    """Pre-norm block: attention to a source, then MLP, each added to its input. Queries never look at each other.

    Source: CrossMAE, Fu et al. 2024 (arXiv 2401.14391), the block without self-attention.

    Args:
        width: D, width of a query.
        source: width of a token of the source, which comes normed.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP over D.
        kernel: attention kernel, see ``attention.choose_kernel``.
        eps: epsilon of the norms.
        rotation: a row of ``ROTATIONS``, or None.
    """

    def __init__(
        self,
        width: int,
        source: int,
        heads: int,
        mlp_ratio: float = 4.0,
        kernel: str = "auto",
        eps: float = NORM_EPS,
        rotation: str | None = None,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=eps)
        self.attention = CrossAttention(width, source, heads, kernel, rotation)
        self.norm_mlp = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self,
        queries: Tensor,
        source: Tensor,
        branch_factors: Tensor | None = None,
        turns: Tensor | None = None,
        source_turns: Tensor | None = None,
    ) -> Tensor:
        """Map queries (B, M, D) to (B, M, D).

        Args:
            queries: (B, M, D).
            source: (B, V, its width).
            branch_factors: (B, 2) factors of the attention and the MLP branch (drop path), or None for ones.
            turns, source_turns: (B, M, 2, d) and (B, V, 2, d) of rotary positions, or None.
        """
        attended = self.attention(self.norm_attention(queries), source, turns, source_turns)
        if branch_factors is None:
            queries = queries + attended
            return queries + self.mlp(self.norm_mlp(queries))
        of_attention, of_mlp = branch_factors.to(queries.dtype)[:, :, None, None].unbind(1)
        queries = queries + of_attention * attended
        return queries + of_mlp * self.mlp(self.norm_mlp(queries))


class LevelMixture(nn.Module):
    """Learned weighted sums of an encoder's levels, one for every block of a decoder.

    Args:
        levels: k, number of levels.
        mixtures: number of sums.
    """

    def __init__(self, levels: int, mixtures: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(mixtures, levels))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights: normal, std 1 / sqrt k.

        Source: CrossMAE's description. Differs: its code draws Xavier-uniform weights over them afterwards.
        """
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)

    def forward(self, levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map k levels (B, V, D) to one mixture (B, V, D) each."""
        mixed = self.weight @ torch.stack(levels).flatten(1)
        return mixed.unflatten(1, levels[0].shape).unbind()
