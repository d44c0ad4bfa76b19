"""The choice of the tokens that are predicted."""

from __future__ import annotations

from torch import Tensor


def gather_masked(features: Tensor, masked: Tensor) -> Tensor:
    """Return the features of the masked tokens, one row of tokens for every (clip, mask).

    Args:
        features: (B, N, D).
        masked: (B, K, M) int64 token indices.

    Returns:
        (B*K, M, D), clip-major: row b*K + k is mask k of clip b. Source: MVD takes its loss at masked tokens only.
    """
    clips, masks, tokens = masked.shape
    index = masked.reshape(clips, masks * tokens, 1).expand(-1, -1, features.shape[-1])
    return features.gather(1, index).reshape(clips * masks, tokens, features.shape[-1])
