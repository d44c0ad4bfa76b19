"""The codes that a codebook begins with: k-means of some tokens, the same whatever computes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.models.tokenizers.nearest import nearest_codes


@torch.no_grad()
def kmeans(tokens: Tensor, codes: int, iterations: int, unit: bool, seed: int) -> Tensor:
    """Return the centres of ``tokens`` after some iterations of Lloyd's algorithm.

    It begins at tokens drawn by ``seed``. A centre that no token is nearest to goes to the token that is farthest from its own.

    Args:
        tokens: fp32 (S, d), S at least ``codes``.
        codes: K.
        iterations: rounds of assigning tokens and moving centres to their means.
        unit: True for centres of length 1, as tokens are; distances are angles then. Source: BEiT v2.
        seed: seed of the draw.

    Returns:
        fp32 (K, d).
    """
    drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:codes]
    vectors = tokens[drawn.to(tokens.device)].clone()
    for _ in range(iterations):
        chosen = nearest_codes(tokens, vectors)
        counts = torch.bincount(chosen, minlength=codes)
        sums = torch.zeros_like(vectors, dtype=torch.float64).index_add_(0, chosen, tokens.double())
        distance = (tokens - vectors[chosen]).square().sum(dim=-1)
        vectors = (sums / counts.clamp_min(1)[:, None]).float()
        if unit:
            vectors = functional.normalize(vectors, dim=-1)
        (empty,) = torch.nonzero(counts == 0, as_tuple=True)
        vectors[empty] = tokens[distance.topk(len(empty)).indices]
    return vectors
