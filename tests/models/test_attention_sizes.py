"""Kernels agree at every length and head width that is used: forward and gradients, fp32 to 1e-6 and bf16 to 1e-2."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from mvd_ds.models.attention import KERNELS

LIMITS = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def outcome(kernel: str, qkv: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient with respect to queries, keys and values."""
    qkv = qkv.detach().clone().requires_grad_()
    out = KERNELS[kernel](qkv)
    (out * weights.to(out.dtype)).sum().backward()
    return out.detach(), qkv.grad


def draw(tokens: int, head_dim: int, batch: int = 1, heads: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens * head_dim)
    qkv = torch.randn(batch, tokens, 3, heads, head_dim, generator=generator)
    return qkv, torch.randn(batch, tokens, heads, head_dim, generator=generator)


def distance(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "bf16"])
@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 20, 49, 160, 197, 1408, 1568])
def test_eager_and_sdpa_on_a_cpu(tokens, head_dim, dtype):
    qkv, weights = draw(tokens, head_dim, heads=1 if tokens > 1000 else 2)
    qkv = qkv.to(dtype)
    eager, sdpa = outcome("eager", qkv, weights), outcome("sdpa", qkv, weights)
    assert distance(sdpa[0], eager[0]) < LIMITS[dtype]
    if tokens > 1:
        assert distance(sdpa[1], eager[1]) < LIMITS[dtype]
        return
    # One token attends to itself whatever its query and key: their gradients are zero, the values' is the output's.
    for _, gradient in (eager, sdpa):
        assert gradient[:, :, :2].abs().max() < 1e-6
        assert distance(gradient[:, :, 2], weights) < LIMITS[dtype]


@ON_GPU
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("tokens", [1, 7, 160, 1568])
def test_every_kernel_against_fp64_on_a_gpu(kernel, tokens, head_dim):
    if kernel == "flash_attn" and importlib.util.find_spec("flash_attn_2_cuda") is None:
        pytest.skip("flash-attn is not installed")
    qkv, weights = (tensor.cuda() for tensor in draw(tokens, head_dim, batch=2, heads=4))
    for dtype, limit in ((torch.bfloat16, 1e-2), (torch.float32, 1e-5)):
        if kernel == "flash_attn" and dtype == torch.float32:
            continue
        given = qkv.to(dtype)
        exact, value = outcome("eager", given.double(), weights.to(dtype).double()), outcome(kernel, given, weights)
        assert distance(value[0], exact[0]) < limit
        if tokens > 1:
            assert distance(value[1], exact[1]) < limit
