"""Deep prompts: learned vectors in front of each block of a frozen transformer, in place of those of the block before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError
from mvd_ds.models.embed import LearnedToken
from mvd_ds.models.vit import VisionTransformer

STD = 0.02
"""Deviation of the initial vectors. Source: CoOp, MetaPrompt."""


def deep_vectors(width: int, count: int, blocks: int) -> nn.ModuleList:
    """Return learned vectors for the first ``blocks`` blocks, ``count`` for each."""
    return nn.ModuleList(LearnedToken(width, STD, tokens=count) for _ in range(blocks))


def values_of(vectors: nn.ModuleList) -> list[Tensor]:
    """Return (M, D) for each block."""
    return [token(1, -1)[0] for token in vectors]


def blocks_with_prompts(asked: int | None, depth: int, what: str) -> int:
    """Return how many blocks get prompts.

    Raises:
        ConfigError: if there are not so many.
    """
    if asked is not None and asked > depth:
        raise ConfigError(f"prompt.blocks {asked}: {what} has {depth}")
    return asked or depth


def encode_with(encoder: VisionTransformer, embedded: Tensor, prompts: Sequence[Tensor]) -> Tensor:
    """Return the encoder's tokens (B, [1 +] N, D) after its norm; prompts are behind them in each block, and left out at the end.

    Args:
        encoder: frozen; gradients pass through it.
        embedded: (B, [1 +] [R +] N, D) of ``encoder.embed``.
        prompts: (M, D) for each of the first blocks.
    """
    count, turns = embedded.shape[1], encoder.turns()
    tokens = embedded
    if turns is not None and prompts:
        turns = torch.cat((turns, _still(turns, prompts[0].shape[0])), dim=1)
    for number, block in enumerate(encoder.blocks):
        if number < len(prompts):
            fresh = prompts[number].to(tokens.dtype).expand(len(tokens), -1, -1)
            tokens = torch.cat((tokens[:, :count], fresh), dim=1)
        tokens = block(tokens, turns=turns)
    return encoder.norm(encoder.without_registers(tokens[:, :count]))


def _still(turns: Tensor, count: int) -> Tensor:
    """Return rotary positions of tokens without a place, which are not turned: cosines 1, sines 0."""
    still = torch.stack((torch.ones_like(turns[:, :1, 0]), torch.zeros_like(turns[:, :1, 1])), dim=2)
    return still.expand(-1, count, -1, -1)
