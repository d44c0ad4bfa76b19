"""A step in bf16 stays within the stated distance of the same step in fp32, and what is said to be fp32 is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import mvd_ds
from mvd_ds.models.attention import KERNELS
from mvd_ds.models.precision import STEP_TOLERANCE

SETTINGS = {"embed_dim": 192, "depth": 6, "num_heads": 3, "patch_px": 8}


def step(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, loss and all gradients of one step."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(2, 3, 4, 32, 32, generator=generator)
    mask = torch.rand(2, 32, generator=generator).argsort(dim=1) < 24
    target = torch.randn(2, 32, 64, generator=generator)
    model = mvd_ds.build_student(SETTINGS, {"embed_dim": 128, "num_heads": 2}, {"video": 64}, 4, 32).to(dtype)
    outputs = model(clip.to(dtype), mask)
    loss = mvd_ds.distillation_loss(outputs, {"video": target}, mask)["video"]
    assert outputs["video"].dtype == dtype and loss.dtype == torch.float32
    loss.backward()
    gradients = torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])
    return outputs["video"].detach().float(), loss.detach(), gradients


def test_a_bf16_step_is_near_its_fp32_step(relative_error):
    for name, value, exact in zip(STEP_TOLERANCE, step(torch.bfloat16), step(torch.float32), strict=True):
        distance = relative_error(value, exact)
        assert distance < STEP_TOLERANCE[name], name
        assert name == "loss" or distance > STEP_TOLERANCE[name] / 40, f"{name}: the stated distance says nothing any more"


def test_statistics_of_norms_are_fp32():
    """Of bf16 tokens around 256, whose variance a sum in bf16 could not even tell from zero."""
    tokens = (256 + torch.randn(8, 768, generator=torch.Generator().manual_seed(1))).bfloat16()
    normed = F.layer_norm(tokens, (768,), eps=1e-6)
    exact = F.layer_norm(tokens.double(), (768,), eps=1e-6)
    assert ((normed.double() - exact).norm() / exact.norm()) < 4e-3


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_softmax_is_fp32_inside(name):
    """Weights over 4096 equal scores: summed in bf16 they would stop growing at 256."""
    qkv = torch.zeros(1, 4096, 3, 1, 8, dtype=torch.bfloat16)
    qkv[:, :, 2] = 1.0
    assert (KERNELS[name](qkv).float() - 1).abs().max() < 1e-2
