"""FP8 linear maps: what they compute, what they are refused for, and how their features are judged."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.models.acceleration.fp8 import ALIGNMENT, LARGEST, Fp8Linear, fp8_obstacle, quantise, similarity, use_fp8
from mvd_ds.models.block_flops import MLP_MATRICES
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.layers import Block
from mvd_ds.models.linear import Linear, QueryKeyValue

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def _randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def test_every_row_keeps_three_bits_whatever_its_size() -> None:
    rows = _randn(6, 256) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6, 0.0])[:, None]
    rounded, scale = quantise(rows)
    assert rounded.dtype == torch.float8_e4m3fn and scale.shape == (6, 1) and scale.dtype == torch.float32
    restored = rounded.float() * scale
    largest = rows.abs().amax(dim=1, keepdim=True)
    # Half a step of 3 bits, and half the smallest subnormal of a row.
    assert ((restored - rows).abs() <= rows.abs() / 16 + largest / LARGEST * 2**-10).all()
    torch.testing.assert_close(restored.abs().amax(dim=1), largest[:, 0])


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_is_computed_within_its_rounding(bias: bool) -> None:
    linear, tokens = Linear(256, 96, bias=bias).requires_grad_(False), _randn(2, 7, 256)
    if bias:
        torch.nn.init.normal_(linear.bias)
    rounded = Fp8Linear(linear.weight.detach(), linear.bias.detach() if bias else None)
    expected, found = linear(tokens), rounded(tokens)
    assert found.shape == expected.shape and found.dtype == tokens.dtype
    error = float((found - expected).norm() / expected.norm())
    assert 1e-3 < error < 6e-2, "it is rounded, and no more than that"
    exact = rounded.weight.float() * rounded.weight_scale.t()
    levels, scale = quantise(tokens.flatten(0, 1))
    torch.testing.assert_close(
        found.flatten(0, 1), (levels.float() * scale) @ exact.t() + (linear.bias if bias else 0), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("qkv_bias", "mlp"), [("query_value", "gelu"), ("full", "gelu"), ("full", "swiglu")])
def test_a_block_in_fp8_is_near_to_one_without(qkv_bias, mlp) -> None:
    block = Block(64, 2, qkv_bias=qkv_bias, style=BlockStyle(mlp=mlp)).eval().requires_grad_(False)
    for module in block.modules():
        if isinstance(module, QueryKeyValue):
            for bias in (module.bias,) if module.full_bias else (module.q_bias, module.v_bias):
                torch.nn.init.normal_(bias)
    tokens = _randn(2, 30, 64)
    expected = block(tokens)
    use_fp8(block)
    assert [type(module) for module in block.modules()].count(Fp8Linear) == 2 + MLP_MATRICES[mlp]
    assert sum(parameter.dtype == torch.float8_e4m3fn for parameter in block.parameters()) == 2 + MLP_MATRICES[mlp]
    assert 0.99 < similarity(block(tokens), expected) < 1


def test_similarity_is_not_fooled_by_huge_channels() -> None:
    reference = _randn(4, 400, 64)
    reference[..., 3] += 1000
    assert similarity(reference, reference) == pytest.approx(1)
    noisy = reference + _randn(5, 400, 64)[1:]
    raw = torch.nn.functional.cosine_similarity(noisy, reference, dim=-1).min()
    assert raw > 0.999 and similarity(noisy, reference) < 0.7
    # Two of a hundred tokens are another's: the 1st percentile sees them, a mean would not.
    some = reference.clone()
    some[:, ::50] = reference.flip(0)[:, ::50]
    assert similarity(some, reference) < 0.5


def test_what_has_no_fp8_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "only GPUs" in str(fp8_obstacle(CPU, torch.bfloat16, [64]))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    for capability, words in (((8, 0), "NVIDIA A100 is sm_80"), ((8, 9), None), ((9, 0), None), ((10, 0), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        said = fp8_obstacle(CUDA, torch.bfloat16, [64, 256])
        assert said is None if words is None else said is not None and words in said
    assert "engine.precision" in str(fp8_obstacle(CUDA, torch.float32, [64]))
    assert f"width 40 is no multiple of {ALIGNMENT}" in str(fp8_obstacle(CUDA, torch.bfloat16, [64, 40]))


def test_a_sharded_teacher_has_no_fp8(recipe) -> None:
    with pytest.raises(ConfigError, match=r"fp8 is for our own networks with placement replicated, not for placement zero3"):
        recipe(teachers={"video": {"fp8": True, "placement": "zero3"}})


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="needs a GPU with FP8")
def test_kernels_compute_what_the_cpu_does() -> None:
    linear, tokens = Linear(256, 96), _randn(3, 40, 256).bfloat16()
    rounded = Fp8Linear(linear.weight.detach().bfloat16(), linear.bias.detach().bfloat16())
    expected = rounded(tokens).float()
    found = rounded.to(CUDA)(tokens.to(CUDA)).float().cpu()
    assert float((found - expected).norm() / expected.norm()) < 5e-3
