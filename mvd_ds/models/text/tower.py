"""The transformer that reads captions: blocks of its own, or the attention and MLP of the student's. Source: CLIP; MS-CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import EncoderSettings, TextSettings
from mvd_ds.models.attention import Attention
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.layers import Block
from mvd_ds.models.text.tables import TokenTable

Between = Callable[[int, Tensor], Tensor]
"""Takes the number of a block and the tokens (B, L, D) before it, and returns those that it gets: deep prompts put theirs in."""


class TowerShape(NamedTuple):
    """The sizes of a text tower, and where a text is read."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    vocabulary: int
    length: int
    """Tokens of a row."""
    causal: bool
    sees_filling: bool
    """True if tokens see what fills a row up, too, as SigLIP's do; they are not causal then."""
    pooled: str
    """See ``TextFolder.pooled``."""
    end: int
    eps: float
    style: BlockStyle
    bias: Literal["query_value", "full"] = "full"


def tower_shape(settings: TextSettings, encoder: EncoderSettings | None) -> TowerShape:
    """Return the shape of a tower beside an encoder; one of a folder needs none.

    Raises:
        ConfigError: if a tokenizer or a folder cannot be read.
    """
    folder = settings.folder
    if folder is not None:
        return TowerShape(
            width=folder.width,
            depth=folder.depth,
            heads=folder.heads,
            # Half a number more, as the width inside of an MLP is this times the width, rounded down.
            mlp_ratio=(folder.hidden + 0.5) / folder.width,
            vocabulary=folder.vocabulary,
            length=folder.context,
            causal=folder.is_causal,
            sees_filling=not folder.is_causal,
            pooled=folder.pooled,
            end=folder.end,
            eps=folder.eps,
            style=BlockStyle(mlp=folder.mlp),
        )
    assert encoder is not None
    is_shared = settings.kind == "shared"
    return TowerShape(
        width=encoder.embed_dim if is_shared else settings.embed_dim or 512,
        depth=encoder.depth if is_shared else settings.depth or 12,
        heads=encoder.num_heads if is_shared else settings.num_heads or 8,
        mlp_ratio=encoder.mlp_ratio if is_shared else 4.0,
        vocabulary=settings.vocabulary,
        length=settings.context,
        causal=settings.causal,
        sees_filling=False,
        pooled="first",
        end=settings.vocabulary - 2,
        eps=encoder.norm_eps,
        style=BlockStyle.of(encoder) if is_shared else BlockStyle(),
        bias=encoder.qkv_bias if is_shared else "full",
    )


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
        encoder: the student's encoder, whose width, heads and style a shared tower has; one of a folder needs none.
    """

    def __init__(self, settings: TextSettings, encoder: EncoderSettings | None = None) -> None:
        super().__init__()
        self.shape = shape = tower_shape(settings, encoder)
        self.width, self.depth = shape.width, shape.depth
        borrowed = settings.borrowed(self.depth)
        self.embed = TokenTable(shape.vocabulary, self.width, 0.02)
        self.position = TokenTable(shape.length, self.width, 0.01)
        own = [place for place in range(self.depth) if place not in borrowed]
        sizes = self.width, shape.heads, shape.mlp_ratio, shape.bias
        self.blocks = nn.ModuleDict({str(place): Block(*sizes, eps=shape.eps, style=shape.style) for place in own})
        self.norms = nn.ModuleDict({str(place): BlockNorms(self.width, shape.style.norm, shape.eps) for place in borrowed})
        self.norm = NORMS[shape.style.norm](self.width, eps=shape.eps)

    def forward(
        self,
        numbers: Tensor,
        borrowed: Sequence[Block] | nn.ModuleList = (),
        embedded: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """Return (B, width) of texts.

        Args:
            numbers: int64 (B, L), with the end of each text once.
            borrowed: the student's blocks, of which a shared tower takes some.
            embedded: (B, L, width) in place of ``embed(numbers)``, with learned vectors where ``numbers`` keep places free;
                places are added here.
            between: gives each block its tokens.
        """
        ends = self.ends(numbers)
        places = torch.arange(numbers.shape[1], device=numbers.device)
        is_seen = None if self.shape.causal or self.shape.sees_filling else (places <= ends[:, None])[:, None, None]
        tokens = (self.embed(numbers) if embedded is None else embedded) + self.position(places)
        for place in range(self.depth):
            tokens = tokens if between is None else between(place, tokens)
            is_borrowed = str(place) in self.norms
            # A call of the block, the student's where it is borrowed, as ZeRO-3 gathers its weights for such a call alone.
            block, norms = (borrowed[place], self.norms[str(place)]) if is_borrowed else (self.blocks[str(place)], None)
            tokens = block(tokens, by=_reading(is_seen, self.shape.causal, norms))
        return self.norm(tokens[torch.arange(len(tokens), device=tokens.device), ends])

    def ends(self, numbers: Tensor) -> Tensor:
        """Return the place in each row, int64 (B,), of the token that is the text's vector."""
        if self.shape.pooled == "last":
            return numbers.new_full((len(numbers),), numbers.shape[1] - 1)
        return (numbers if self.shape.pooled == "largest" else (numbers == self.shape.end).int()).argmax(dim=1)


def _reading(seen: Tensor | None, causal: bool, norms: Any) -> Callable[[Block, Tensor], Tensor]:
    """Return the computation of a block on texts, with its own norms, or with those of ``BlockNorms``."""

    def compute(block: Block, tokens: Tensor) -> Tensor:
        of_attention, of_mlp = (block.norm_attention, block.norm_mlp) if norms is None else (norms.attention, norms.mlp)
        tokens = tokens + block.scale_attention(text_attention(block.attention, of_attention(tokens), seen, causal))
        return tokens + block.scale_mlp(block.mlp(of_mlp(tokens)))

    return compute


def text_attention(attention: Attention, tokens: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
    """Map tokens (B, L, D) of texts to (B, L, D), with the weights of ``attention``.

    Args:
        attention: of the block.
        tokens: normed.
        seen: bool (B, 1, 1, L), tokens that are looked at; None: all, or those before each and itself.
        causal: tokens look at those before them and at themselves alone; without ``seen``.
    """
    query, key, value = attention.unpack(attention.qkv(tokens)).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
    return attention.projection(mixed.transpose(1, 2).flatten(-2))
