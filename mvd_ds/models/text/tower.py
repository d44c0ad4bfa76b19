"""The transformer that reads captions: blocks of its own, or the attention and MLP of the student's. Source: CLIP; MS-CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import EncoderSettings, TextSettings
from mvd_ds.models.attention import Attention
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.layers import Block
from mvd_ds.models.text.tables import TokenTable


def tower_sizes(settings: TextSettings, encoder: EncoderSettings) -> tuple[int, int, int]:
    """Return width, depth and heads of a tower beside an encoder."""
    if settings.kind == "shared":
        return encoder.embed_dim, encoder.depth, encoder.num_heads
    return settings.embed_dim or 512, settings.depth or 12, settings.num_heads or 8


class BlockNorms(nn.Module):
    """The two norms of a text tower in a block that it borrows."""

    def __init__(self, width: int, norm: str, eps: float) -> None:
        super().__init__()
        self.attention, self.mlp = (NORMS[norm](width, eps=eps) for _ in range(2))


class TextTower(nn.Module):
    """Rows of token numbers -> one vector each, from the token at the end of the text.

    Blocks that are borrowed are no part of this module: they are passed to each call, so that a shared weight is one parameter,
    of the student, with one gradient and one state of the optimizer.

    Args:
        settings: the tower.
        encoder: the student's encoder, whose width, heads and style a shared tower has.
    """

    def __init__(self, settings: TextSettings, encoder: EncoderSettings) -> None:
        super().__init__()
        shares = settings.kind == "shared"
        self.width, self.depth, heads = tower_sizes(settings, encoder)
        style = BlockStyle.of(encoder) if shares else BlockStyle()
        ratio, eps = (encoder.mlp_ratio if shares else 4.0), encoder.norm_eps
        borrowed = settings.borrowed(self.depth)
        self.end, self.causal = settings.vocabulary - 2, settings.causal
        self.embed = TokenTable(settings.vocabulary, self.width, 0.02)
        self.position = TokenTable(settings.context, self.width, 0.01)
        own = [place for place in range(self.depth) if place not in borrowed]
        bias = encoder.qkv_bias if shares else "full"
        self.blocks = nn.ModuleDict({str(place): Block(self.width, heads, ratio, bias, eps=eps, style=style) for place in own})
        self.norms = nn.ModuleDict({str(place): BlockNorms(self.width, style.norm, eps) for place in borrowed})
        self.norm = NORMS[style.norm](self.width, eps=eps)

    def forward(self, numbers: Tensor, borrowed: Sequence[Block] | nn.ModuleList) -> Tensor:
        """Return (B, width) of texts.

        Args:
            numbers: int64 (B, L), with the end of each text once.
            borrowed: the student's blocks, of which a shared tower takes some.
        """
        ends = (numbers == self.end).int().argmax(dim=1)
        places = torch.arange(numbers.shape[1], device=numbers.device)
        seen = None if self.causal else (places <= ends[:, None])[:, None, None]
        tokens = self.embed(numbers) + self.position(places)
        for place in range(self.depth):
            if str(place) in self.norms:
                # A call of the student's block, as ZeRO-3 gathers its weights for such a call alone.
                tokens = borrowed[place](tokens, by=_reading(seen, self.norms[str(place)]))
            else:
                tokens = self.blocks[str(place)](tokens, by=_reading(seen, None))
        return self.norm(tokens[torch.arange(len(tokens), device=tokens.device), ends])


def _reading(seen: Tensor | None, norms: Any) -> Callable[[Block, Tensor], Tensor]:
    """Return the computation of a block on texts, with its own norms, or with those of ``BlockNorms``."""

    def compute(block: Block, tokens: Tensor) -> Tensor:
        of_attention, of_mlp = (block.norm_attention, block.norm_mlp) if norms is None else (norms.attention, norms.mlp)
        tokens = tokens + block.scale_attention(text_attention(block.attention, of_attention(tokens), seen))
        return tokens + block.scale_mlp(block.mlp(of_mlp(tokens)))

    return compute


def text_attention(attention: Attention, tokens: Tensor, seen: Tensor | None) -> Tensor:
    """Map tokens (B, L, D) of texts to (B, L, D), with the weights of ``attention``.

    Args:
        seen: bool (B, 1, 1, L), tokens that are looked at; None: each looks at those before it and at itself.
    """
    query, key, value = attention.unpack(attention.qkv(tokens)).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=seen is None)
    return attention.projection(mixed.transpose(1, 2).flatten(-2))
