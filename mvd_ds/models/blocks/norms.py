"""The norms of tokens, by their names in the setting ``norm``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

NORMS: dict[str, Callable[..., nn.LayerNorm | nn.RMSNorm]] = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}
"""Every norm: (width, eps=...) -> module. ``rmsnorm`` divides by the root mean square and has no bias."""
