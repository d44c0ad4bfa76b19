"""Self-attention over all tokens: one module, three kernels, one function that chooses.

Norms of queries and keys, and rotary positions, come before the kernels, which see the packed projection alone.

No attention mask is ever passed: a masked token is either absent (encoder) or a token like any other (decoder).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.rotary import rotate
from mvd_ds.models.blocks.style import PLAIN, BlockStyle
from mvd_ds.models.linear import Linear, QueryKeyValue

logger = logging.getLogger(__name__)

#: Largest head width of the FlashAttention-2 kernels.
FLASH_HEAD_DIM = 256


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D, width of a token.
        heads: number of heads; d = D / heads.
        qkv_bias: ``query_value`` or ``full``, see ``QueryKeyValue``.
        kernel: ``auto``, ``flash_attn``, ``sdpa`` or ``eager``.
        style: whether queries and keys are normed, by what, and how they are turned.
        eps: epsilon of their norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        qkv_bias: Literal["query_value", "full"],
        kernel: str = "auto",
        style: BlockStyle = PLAIN,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kernel = kernel
        self.rotation = style.rotation
        self.qkv = QueryKeyValue(width, qkv_bias)
        self.is_normed = style.qk_norm != "none"
        if self.is_normed:
            normed = width if style.qk_norm == "width" else width // heads
            self.norm_query, self.norm_key = (NORMS[style.norm](normed, eps=eps) for _ in range(2))
        self.projection = Linear(width, width)

    def forward(self, tokens: Tensor, turns: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D); ``turns`` are those of ``Rotary``, where there is a rotation."""
        assert (turns is None) == (self.rotation is None), "turns are for rotary positions, which do not work without"
        qkv = self.unpack(self.qkv(tokens), turns)
        kernel = _kernel_name(self.kernel, qkv.device, qkv.dtype, qkv.shape[-1])
        return self.projection(KERNELS[kernel](qkv).flatten(-2))

    def unpack(self, packed: Tensor, turns: Tensor | None = None) -> Tensor:
        """Return queries, keys and values as the kernels take them: normed and turned.

        Args:
            packed: (B, N, 3D) from ``qkv``.
            turns: see ``rotary.rotate``; None: they are left where they are.

        Returns:
            (B, N, 3, heads, d).
        """
        qkv = packed.unflatten(-1, (3, self.heads, -1))
        if not self.is_normed and turns is None:
            return qkv
        query, key, value = qkv.unbind(2)
        if self.is_normed:
            query, key = _normed(self.norm_query, query), _normed(self.norm_key, key)
        if turns is not None:
            assert self.rotation is not None
            query, key = rotate(query, turns, self.rotation), rotate(key, turns, self.rotation)
        return torch.stack((query, key, value), dim=2)


def _normed(norm: nn.LayerNorm | nn.RMSNorm, parts: Tensor) -> Tensor:
    """Return (B, N, heads, d) normed over each head or over all of them, as wide as the norm is."""
    if norm.normalized_shape[0] == parts.shape[-1]:
        return norm(parts)
    return norm(parts.flatten(-2)).view_as(parts)


def eager_attention(qkv: Tensor) -> Tensor:
    """Map (B, N, 3, heads, d) to (B, N, heads, d), with the (N, N) matrix of weights in memory.

    Queries are scaled before the product. Source: MVD, VideoMAE.
    """
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return (weights.softmax(dim=-1) @ value).transpose(1, 2)


def sdpa_attention(qkv: Tensor) -> Tensor:
    """Map (B, N, 3, heads, d) to (B, N, heads, d) by torch's own fused kernels; the three parts are strided views."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def flash_attention(qkv: Tensor) -> Tensor:
    """Map (B, N, 3, heads, d) to (B, N, heads, d) by the flash-attn package."""
    from flash_attn import flash_attn_qkvpacked_func

    return flash_attn_qkvpacked_func(qkv)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "eager": eager_attention,
    "sdpa": sdpa_attention,
    "flash_attn": flash_attention,
}


@functools.cache
def choose_kernel(setting: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[str, str]:
    """Return the name of the kernel to run and the reason in words, logged once per combination.

    ``auto`` follows measurements by others (H100, N about 1k, d = 64: torch's SDPA is ahead of FlashAttention-2 forward
    and backward; on A100 SDPA is FlashAttention-2).

    Args:
        setting: ``auto`` or the name of a kernel.
        device: device of the tokens.
        dtype: type of the tokens.
        head_dim: d, width of a head.

    Raises:
        ConfigError: if a kernel that was named cannot run here. There is no silent fallback.
    """
    if setting == "auto":
        name, reason = _choose_automatically(device, dtype, head_dim)
    elif setting not in KERNELS:
        raise ConfigError(f"attention '{setting}' is not known; kernels are auto, {', '.join(KERNELS)}")
    else:
        obstacle = _flash_obstacle(device, dtype, head_dim) if setting == "flash_attn" else None
        if obstacle:
            raise ConfigError(f"attention 'flash_attn' cannot run: {obstacle}; choose attention: auto or sdpa")
        name, reason = setting, "named by the setting"
    logger.info("attention kernel %s on %s in %s, head width %d: %s", name, device, dtype, head_dim, reason)
    return name, reason


@torch.compiler.assume_constant_result
def _kernel_name(setting: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Return the name alone, decided while a compiled block is traced and not inside of it."""
    return choose_kernel(setting, device, dtype, head_dim)[0]


def _choose_automatically(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[str, str]:
    if device.type != "cuda":
        return "sdpa", f"torch's own attention on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return "sdpa", f"fused packages have no kernel for {_short(dtype)}"
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 9:
        return "sdpa", f"torch's own kernels are the faster ones on sm_{major}{minor}"
    obstacle = _flash_obstacle(device, dtype, head_dim)
    if obstacle:
        return "sdpa", obstacle
    return "flash_attn", f"installed, and made for sm_{major}{minor}"


def _flash_obstacle(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return the reason why FlashAttention-2 cannot run, or None."""
    # `import flash_attn` proves nothing: version 4 uses the same folder without these functions.
    if importlib.util.find_spec("flash_attn_2_cuda") is None:
        return "the package flash-attn (version 2) is not installed"
    if device.type != "cuda":
        return f"flash-attn needs a CUDA device, tokens are on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash-attn needs bf16 or fp16 tokens, they are {_short(dtype)}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"flash-attn needs sm_80 or newer, this device is sm_{major}{minor}"
    if head_dim > FLASH_HEAD_DIM or head_dim % 8:
        return f"flash-attn needs a head width that is a multiple of 8 up to {FLASH_HEAD_DIM}, it is {head_dim}"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
