"""Learned aggregation: class queries that gather tokens by attention in one head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvd_ds.models.blocks.mlps import Mlp
from mvd_ds.models.blocks.style import LayerScale
from mvd_ds.models.embed import LearnedToken
from mvd_ds.models.linear import Linear

#: Hidden width of the MLP over D. Source: PatchConvNet.
MLP_RATIO = 3
NORM_EPS = 1e-6


class ClassAttention(nn.Module):
    """One block whose queries are learned: one-headed attention to the tokens, then an MLP, both scaled and added.

    One query also sees itself among the keys; several, one for each class, see the patches alone. Queries, keys and values have
    no bias. Source: PatchConvNet, Touvron et al. 2021 (arXiv 2112.13692), ``Learned_Aggregation_Layer`` and its multi-class
    variant.

    Args:
        width: D.
        queries: number of queries.
        layer_scale: first value of the factors of both branches.
        learns_queries: False if they come from the block before it.
    """

    def __init__(self, width: int, queries: int, layer_scale: float, learns_queries: bool = True) -> None:
        super().__init__()
        self.queries = queries
        # The optimizer leaves class tokens without weight decay by this name.
        self.cls_token = LearnedToken(width, std=0.02, tokens=queries) if learns_queries else None
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.to_queries, self.to_keys, self.to_values = (Linear(width, width, bias=False) for _ in range(3))
        self.map = nn.Identity()
        self.projection = Linear(width, width)
        self.scale_attention = LayerScale(width, layer_scale)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.scale_mlp = LayerScale(width, layer_scale)

    def forward(self, patches: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return (B, queries, D); the output of ``map`` is the attention fp32 (B, queries, [1 +] N).

        Args:
            patches: tokens (B, N, D).
            tokens: queries (B, queries, D) of the block before, where none are learned here.
        """
        if self.cls_token is not None:
            tokens = self.cls_token(patches.shape[0], self.queries)  # len() would fix the batch of a graph
        assert tokens is not None
        seen = self.norm_attention(torch.cat((tokens, patches), dim=1))
        queries, keys = seen[:, : self.queries], seen if self.queries == 1 else seen[:, self.queries :]
        scores = self.to_queries(queries) * keys.shape[-1] ** -0.5 @ self.to_keys(keys).transpose(1, 2)
        weights = self.map(scores.float().softmax(dim=-1))
        gathered = weights.to(patches.dtype) @ self.to_values(keys)
        tokens = tokens + self.scale_attention(self.projection(gathered))
        return tokens + self.scale_mlp(self.mlp(self.norm_mlp(tokens)))


class PatchMaps:
    """A context that keeps the attention of class queries to the patches, fp32 (B, queries, N), of the last forward inside."""

    def __init__(self, attention: ClassAttention) -> None:
        self.attention = attention
        self.value: Tensor | None = None

    def _keep(self, _module: nn.Module, _arguments: tuple[Tensor, ...], weights: Tensor) -> None:
        self.value = weights.detach()[:, :, int(self.attention.queries == 1) :]

    def __enter__(self) -> PatchMaps:
        self._hook = self.attention.map.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
