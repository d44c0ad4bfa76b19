"""Heads on a frozen encoder: attentive pooling of its tokens, and visual query tuning of all its layers."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, HeadSettings
from mvd_ds.models.blocks.mlps import Mlp
from mvd_ds.models.classifiers.class_attention_heads import ClassQueriesHead, OneQueryHead
from mvd_ds.models.classifiers.deep_attentive import DeepAttentiveHead
from mvd_ds.models.classifiers.tokens import FrozenTokens, TokenShape
from mvd_ds.models.embed import LearnedToken
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.layers import Block
from mvd_ds.models.linear import Linear
from mvd_ds.models.vit import VisionTransformer


class KeysValues:
    """A context in which a frozen encoder of ours keeps keys and values of all layers of its forward.

    Queries of a head are no part of that forward, so its tokens are those of the encoder without a head, to the bit.
    """

    def __init__(self, encoder: VisionTransformer) -> None:
        self._encoder = encoder
        self._attentions = [block.attention for block in encoder.blocks if isinstance(block, Block)]
        self._kept: list[Tensor] = []

    def __enter__(self) -> KeysValues:
        self._hooks = [attention.qkv.register_forward_hook(self._keep) for attention in self._attentions]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, _module: nn.Module, _arguments: tuple[Tensor, ...], packed: Tensor) -> None:
        self._kept.append(packed)

    def of_clips(self, count: int) -> Tensor:
        """Return (count, layers, N, 2, heads, d) of what was kept; frames of image encoders are joined to clips."""
        turns = self._encoder.turns()
        seen = [attention.unpack(packed, turns) for attention, packed in zip(self._attentions, self._kept, strict=True)]
        packed = torch.stack(seen, dim=1)[:, :, :, 1:]
        return packed.unflatten(0, (count, -1)).transpose(1, 2).flatten(2, 3)


class AttentiveHead(nn.Module):
    """One learned query looks at all tokens, then an MLP, then a linear layer. Source: V-JEPA's attentive probe, one block.

    Args:
        width: D.
        heads: heads of the cross-attention.
        classes: number of classes.
    """

    needs_layers: ClassVar[bool] = False

    @classmethod
    def on(cls, shape: TokenShape, classes: int, settings: HeadSettings) -> AttentiveHead:
        """Return a head for tokens of a shape."""
        return cls(shape.width, shape.heads, classes)

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = LearnedToken(width, std=0.02)
        self.norm_tokens = nn.LayerNorm(width)
        self.to_query = Linear(width, width)
        self.to_keys_values = Linear(width, 2 * width)
        self.projection = Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.head = Linear(width, classes)

    def forward(self, frozen: FrozenTokens) -> Tensor:
        """Return (B, classes) logits."""
        query = self.query(len(frozen.tokens), 1)
        keys, values = self.to_keys_values(self.norm_tokens(frozen.tokens)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        pooled = query + self.projection(_look(self.to_query(query).unflatten(-1, (self.heads, -1)), keys, values))
        pooled = pooled + self.mlp(self.norm_mlp(pooled))
        return self.head(pooled[:, 0])


class QueryTuningHead(nn.Module):
    """Learned queries look at the keys and values of every layer; what they see in all layers goes to a linear layer.

    A query passes through its layer as a token would (norm, attention, MLP, all frozen), but it is never a key or a value, and
    no layer sees the queries of another. Source: visual query tuning, Tu et al. 2023 (arXiv 2212.03220). Differs: every summary
    is normalised before the linear layer, in place of a search over its scale; the mean of the last tokens stands for the class
    token, which video encoders have not.

    Args:
        encoder: frozen; it is no part of the head's parameters.
        classes: number of classes.
        queries: number of queries in each layer.
    """

    needs_layers: ClassVar[bool] = True

    @classmethod
    def on(cls, shape: TokenShape, classes: int, settings: HeadSettings) -> QueryTuningHead:
        """Return a head for the layers of an encoder.

        Raises:
            ConfigError: if it is not one of ours.
        """
        if shape.encoder is None:
            raise ConfigError("heads: vqt looks into the layers of our own networks; take other heads for models with network")
        return cls(shape.encoder, classes, settings.queries)

    def __init__(self, encoder: VisionTransformer, classes: int, queries: int = 1) -> None:
        super().__init__()
        width = encoder.settings.embed_dim
        self.blocks: tuple[nn.Module, ...] = tuple(encoder.blocks)  # a tuple: they stay the encoder's
        self.queries = nn.ModuleList(
            nn.ModuleList(LearnedToken(width, std=0.02) for _ in range(queries)) for _ in range(len(self.blocks))
        )
        self.head = Linear((len(self.blocks) * queries + 1) * width, classes)

    def forward(self, frozen: FrozenTokens) -> Tensor:
        """Return (B, classes) logits."""
        assert frozen.keys_values is not None
        batch = len(frozen.tokens)
        summaries = [frozen.tokens.mean(dim=1, keepdim=True)]
        for number, (block, tokens) in enumerate(zip(self.blocks, self.queries, strict=True)):
            assert isinstance(tokens, nn.ModuleList)
            queries = torch.cat([token(batch, 1) for token in tokens], dim=1)
            summaries.append(_through_layer(block, queries, frozen.keys_values[:, number]))
        joined = torch.cat(summaries, dim=1)
        return self.head(F.layer_norm(joined, joined.shape[-1:]).flatten(1))


def _through_layer(block: nn.Module, queries: Tensor, keys_values: Tensor) -> Tensor:
    """Return queries (B, m, D) after a block that sees only keys and values (B, N, 2, heads, d) of its tokens."""
    assert isinstance(block, Block)
    packed = block.attention.unpack(block.attention.qkv(block.norm_attention(queries)))
    keys, values = keys_values.unbind(2)
    seen = queries + block.scale_attention(block.attention.projection(_look(packed[:, :, 0], keys, values)))
    return seen + block.scale_mlp(block.mlp(block.norm_mlp(seen)))


def _look(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from queries (B, m, heads, d) to keys and values (B, N, heads, d); return (B, m, D)."""
    found = F.scaled_dot_product_attention(query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
    return found.transpose(1, 2).flatten(2)


class TokenHead(Protocol):
    """A class of heads that see the tokens of a frozen encoder: a row of ``HEADS``."""

    needs_layers: ClassVar[bool]
    """True if it takes keys and values of every layer, see ``KeysValues``."""

    @classmethod
    def on(cls, shape: TokenShape, classes: int, settings: HeadSettings) -> nn.Module:
        """Return a head for the tokens of a frozen encoder."""


HEADS: dict[str, type[TokenHead]] = {
    "attentive": AttentiveHead,
    "vqt": QueryTuningHead,
    "class_query": OneQueryHead,
    "class_queries": ClassQueriesHead,
    "deep_attentive": DeepAttentiveHead,
}
"""Every head of ``probe`` that sees tokens, by its name in the setting ``heads``."""


def build_head(name: str, shape: TokenShape, classes: int, settings: HeadSettings, seed: int) -> nn.Module:
    """Return a head of ``HEADS`` on the tokens of a frozen encoder, with the initial weights of ``seed``."""
    return initialise(HEADS[name].on(shape, classes, settings), seed)
