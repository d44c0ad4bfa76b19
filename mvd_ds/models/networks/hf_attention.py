"""Queries, keys and values of networks of transformers, kept as the attention gets them: after any rotation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

READING = "mvd_ds_reading"
"""Name of the attention in transformers' table: its own call of SDPA, beside which heads are kept."""
_KEEPER = "keep_heads"


def register_reading() -> str:
    """Enter the attention that keeps heads into transformers' table, and return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(READING, _attend)
    AttentionMaskInterface.register(READING, sdpa_mask)
    return READING


def keep_heads(block: nn.Module, keep: Any) -> None:
    """Have ``keep(query, key, value)``, each (B, heads, N, d), called in every pass through the attention of ``block``."""
    for module in block.modules():
        setattr(module, _KEEPER, keep)


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    keep = getattr(module, _KEEPER, None)
    if keep is not None:
        keep(query, key, value)
    return sdpa_attention_forward(module, query, key, value, mask, **options)
