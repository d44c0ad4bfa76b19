"""Floating point operations of one block and of one encoder; ``flops`` counts recipes by them."""

from __future__ import annotations

from mvd_ds.config import EncoderSettings

#: Matrices of each MLP.
MLP_MATRICES = {"gelu": 2, "swiglu": 3, "quick_gelu": 2, "gelu_tanh": 2}


def block_flops(tokens: int, width: int, mlp_ratio: float, mlp: str = "gelu") -> int:
    """Return the operations of one block on a sequence of ``tokens``."""
    return 8 * tokens * width**2 + mlp_flops(tokens, width, mlp_ratio, mlp) + 4 * tokens**2 * width


def mlp_flops(tokens: int, width: int, mlp_ratio: float, mlp: str = "gelu") -> int:
    """Return the operations of the MLP of one block."""
    return 2 * MLP_MATRICES[mlp] * tokens * width * int(width * mlp_ratio)


def qkv_flops(tokens: int, width: int) -> int:
    """Return the operations of the projection of tokens to queries, keys and values."""
    return 6 * tokens * width**2


def encoder_flops(settings: EncoderSettings, tokens: int, depth: int) -> int:
    """Return the operations of an encoder with ``depth`` blocks on a sequence of ``tokens``, its patch embedding included."""
    patch = 2 * tokens * 3 * settings.tubelet_frames * settings.patch_px**2 * settings.embed_dim
    return patch + depth * block_flops(tokens + settings.prefix_tokens, settings.embed_dim, settings.mlp_ratio, settings.mlp)
