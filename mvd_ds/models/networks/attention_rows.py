"""The attention that tokens get, computed beside a fused kernel: a row of scores, never the matrix of all heads."""

from __future__ import annotations

import torch
from torch import Tensor

#: Queries whose scores are in memory at once where the mean over all queries is taken.
CHUNK_QUERIES = 64


def attention_row(query: Tensor, key: Tensor, class_token: int | None, chunk: int = CHUNK_QUERIES) -> Tensor:
    """Return the attention that every token gets, softmax(q K^T / sqrt d) in fp32, the mean over heads.

    Args:
        query, key: (B, heads, N, d) of one block, class and register tokens included.
        class_token: index of the class token, whose row is returned. Source: AttMask; UMT; A-CLIP. None: the mean of the rows
            of all tokens, for networks without one.
        chunk: queries at once; a row of scores is B * heads * N numbers.

    Returns:
        fp32 (B, N), which sums to 1; of the tokens' own order.
    """
    key = key.float().transpose(-2, -1)
    if class_token is not None:
        return _weights(query[:, :, class_token : class_token + 1], key).sum(dim=-2).mean(dim=1)
    received = torch.zeros(len(query), query.shape[2], device=query.device)
    for part in query.split(chunk, dim=2):
        received += _weights(part, key).sum(dim=(1, 2))
    return received / (query.shape[1] * query.shape[2])


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """Return attention weights (B, heads, n, N) of queries (B, heads, n, d) and transposed keys, fp32 (B, heads, d, N)."""
    return (query.float() * query.shape[-1] ** -0.5 @ key).softmax(dim=-1)


def attention_row_flops(tokens: int, width: int, has_class_token: bool) -> int:
    """Return the operations of ``attention_row`` for one block on a sequence of ``tokens``."""
    return 2 * (1 if has_class_token else tokens) * tokens * width
