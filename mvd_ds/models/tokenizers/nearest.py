"""The code of a token: the nearest of all vectors."""

from __future__ import annotations

import torch
from torch import Tensor

#: Scores, of one token and one vector, that are held at once: 128 MiB in fp32.
MOST_SCORES = 2**25


@torch.no_grad()
def nearest_codes(tokens: Tensor, vectors: Tensor) -> Tensor:
    """Return the index of the vector nearest to every token; among unit vectors, of the one with the largest cosine.

    |x - c|^2 is |x|^2 - 2 (x c - |c|^2 / 2), of which the brackets alone tell codes apart. Some tokens at a time, in fp32.

    Args:
        tokens: (..., d), any float type.
        vectors: (K, d) fp32.

    Returns:
        int64 (...).
    """
    flat, half = tokens.reshape(-1, tokens.shape[-1]), vectors.square().sum(dim=-1) / 2
    parts = flat.split(max(MOST_SCORES // len(vectors), 1))
    found = [torch.addmm(half, part.float(), vectors.T, beta=-1).argmax(dim=-1) for part in parts]
    return torch.cat(found).view(tokens.shape[:-1])
