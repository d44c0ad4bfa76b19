"""The kernels agree, and the choice among them is said in words."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.models import attention
from mvd_ds.models.attention import KERNELS, Attention, choose_kernel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _forget_choices():
    choose_kernel.cache_clear()
    yield
    choose_kernel.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Pretends a device capability and whether flash-attn is installed."""
    find_spec = importlib.util.find_spec

    def pretend(capability: tuple[int, int], flash: bool) -> None:
        def found(name, *rest):
            return (object() if flash else None) if name == "flash_attn_2_cuda" else find_spec(name, *rest)

        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(importlib.util, "find_spec", found)

    return pretend


def gradients(module: Attention, tokens: torch.Tensor) -> list[torch.Tensor]:
    module.zero_grad()
    tokens = tokens.detach().requires_grad_()
    out = module(tokens)
    out.square().sum().backward()
    return [out.detach(), tokens.grad, *(parameter.grad.clone() for parameter in module.parameters())]


@pytest.mark.parametrize("bias", ["query_value", "full"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_eager_and_sdpa_agree_in_outputs_and_gradients(bias, dtype, limit, relative_error):
    module = Attention(64, 4, bias, "eager").to(dtype)
    tokens = torch.randn(2, 33, 64).to(dtype)
    eager = gradients(module, tokens)
    module.kernel = "sdpa"
    for a, b in zip(gradients(module, tokens), eager, strict=True):
        assert relative_error(a.float(), b.float()) < limit or b.float().norm() < 1e-5


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_kernels_equal_the_definition(name):
    qkv = torch.randn(2, 5, 3, 2, 8, dtype=torch.float64)
    out = KERNELS[name](qkv)
    for b in range(2):
        for head in range(2):
            query, key, value = (qkv[b, :, part, head] for part in range(3))
            scores = torch.exp(query @ key.T / 8**0.5)
            expected = scores / scores.sum(dim=1, keepdim=True) @ value
            torch.testing.assert_close(out[b, :, head], expected)


def test_keys_have_no_bias():
    module = Attention(16, 2, "query_value")
    assert {name for name, _ in module.qkv.named_parameters()} == {"weight", "q_bias", "v_bias"}
    torch.nn.init.constant_(module.qkv.q_bias, 1.0)
    torch.nn.init.constant_(module.qkv.v_bias, 2.0)
    query, key, value = module.qkv(torch.zeros(1, 1, 16)).split(16, dim=-1)
    assert (query == 1).all() and (key == 0).all() and (value == 2).all()
    assert {name for name, _ in Attention(16, 2, "full").qkv.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "flash", "head_dim", "name", "words"),
    [
        (CPU, torch.float32, (0, 0), True, 64, "sdpa", "on cpu"),
        (CPU, torch.bfloat16, (0, 0), True, 64, "sdpa", "on cpu"),
        (CUDA, torch.float32, (8, 0), True, 64, "sdpa", "float32"),
        (CUDA, torch.bfloat16, (9, 0), True, 64, "sdpa", "sm_90"),
        (CUDA, torch.bfloat16, (10, 0), True, 64, "sdpa", "sm_100"),
        (CUDA, torch.bfloat16, (8, 0), True, 64, "flash_attn", "sm_80"),
        (CUDA, torch.float16, (8, 9), True, 80, "flash_attn", "sm_89"),
        (CUDA, torch.bfloat16, (8, 6), False, 64, "sdpa", "not installed"),
        (CUDA, torch.bfloat16, (7, 5), True, 64, "sdpa", "sm_80 or newer"),
        (CUDA, torch.bfloat16, (8, 0), True, 264, "sdpa", "head width"),
        (CUDA, torch.bfloat16, (8, 0), True, 20, "sdpa", "head width"),
    ],
)
def test_auto_chooses_by_device(machine, device, dtype, capability, flash, head_dim, name, words):
    machine(capability, flash)
    chosen, reason = choose_kernel("auto", device, dtype, head_dim)
    assert chosen == name
    assert words in reason


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "flash", "head_dim", "words"),
    [
        (CUDA, torch.bfloat16, (9, 0), False, 64, "the package flash-attn (version 2) is not installed"),
        (CPU, torch.bfloat16, (9, 0), True, 64, "flash-attn needs a CUDA device, tokens are on cpu"),
        (CUDA, torch.float32, (9, 0), True, 64, "flash-attn needs bf16 or fp16 tokens, they are float32"),
        (CUDA, torch.float16, (7, 0), True, 64, "flash-attn needs sm_80 or newer, this device is sm_70"),
        (CUDA, torch.float16, (8, 0), True, 260, "a head width that is a multiple of 8 up to 256, it is 260"),
    ],
)
def test_a_named_kernel_never_falls_back(machine, device, dtype, capability, flash, head_dim, words):
    machine(capability, flash)
    with pytest.raises(ConfigError) as error:
        choose_kernel("flash_attn", device, dtype, head_dim)
    assert str(error.value) == f"attention 'flash_attn' cannot run: {words}; choose attention: auto or sdpa".replace(
        "run: a head", "run: flash-attn needs a head"
    )


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ConfigError, match="attention 'xformers' is not known; kernels are auto, eager, sdpa, flash_attn"):
        choose_kernel("xformers", CPU, torch.float32, 64)


def test_named_kernels_are_taken_and_logged_once(machine, caplog):
    machine((9, 0), True)
    with caplog.at_level("INFO", logger=attention.__name__):
        assert choose_kernel("flash_attn", CUDA, torch.bfloat16, 64)[0] == "flash_attn"
        assert choose_kernel("flash_attn", CUDA, torch.bfloat16, 64)[0] == "flash_attn"
        assert choose_kernel("eager", CUDA, torch.bfloat16, 64)[0] == "eager"
    assert len(caplog.records) == 2
    assert "attention kernel flash_attn on cuda" in caplog.records[0].getMessage()


def test_flash_gets_the_packed_projection(monkeypatch):
    seen = []

    def packed(qkv):
        seen.append(qkv.shape)
        return KERNELS["eager"](qkv)

    package = types.ModuleType("flash_attn")
    package.flash_attn_qkvpacked_func = packed
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(attention, "choose_kernel", lambda *request: ("flash_attn", "test"))
    module = Attention(32, 4, "query_value", "flash_attn")
    tokens = torch.randn(2, 7, 32)
    out = module(tokens)
    assert seen == [(2, 7, 3, 4, 8)]
    monkeypatch.setattr(attention, "choose_kernel", lambda *request: ("eager", "test"))
    assert torch.equal(out, module(tokens))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["sdpa", "flash_attn"])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_fused_kernels_agree_with_eager_on_a_gpu(name, head_dim, relative_error):
    if name == "flash_attn" and importlib.util.find_spec("flash_attn_2_cuda") is None:
        pytest.skip("needs flash-attn")
    module = Attention(4 * head_dim, 4, "query_value", "eager").to("cuda", torch.bfloat16)
    tokens = torch.randn(2, 196, 4 * head_dim, device="cuda", dtype=torch.bfloat16)
    eager = gradients(module, tokens)
    module.kernel = name
    for a, b in zip(gradients(module, tokens), eager, strict=True):
        assert relative_error(a.float(), b.float()) < 1e-2 or b.float().norm() < 1e-3
