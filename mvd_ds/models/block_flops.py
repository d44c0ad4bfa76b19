"""Floating point operations of one block and of one encoder; ``flops`` counts recipes by them."""

from __future__ import annotations

from mvd_ds.config import EncoderSettings


def block_flops(tokens: int, width: int, mlp_ratio: float) -> int:
    """Return the operations of one block on a sequence of ``tokens``."""
    return 8 * tokens * width**2 + mlp_flops(tokens, width, mlp_ratio) + 4 * tokens**2 * width


def mlp_flops(tokens: int, width: int, mlp_ratio: float) -> int:
    """Return the operations of the MLP of one block."""
    return 4 * tokens * width * int(width * mlp_ratio)


def encoder_flops(settings: EncoderSettings, tokens: int, depth: int) -> int:
    """Return the operations of an encoder with ``depth`` blocks on a sequence of ``tokens``, its patch embedding included."""
    patch = 2 * tokens * 3 * settings.tubelet_frames * settings.patch_px**2 * settings.embed_dim
    return patch + depth * block_flops(tokens + settings.cls_token, settings.embed_dim, settings.mlp_ratio)
