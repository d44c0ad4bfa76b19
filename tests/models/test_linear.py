"""bf16 linear maps on a CPU: fp32 sums, rounded once, whichever units compute them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvd_ds.models import linear as module
from mvd_ds.models.linear import Linear, linear


def passed(has_units: bool, tokens: Tensor, weight: Tensor, bias: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Output and gradients."""
    monkeypatch.setattr(module, "_has_bf16_units", lambda: has_units)
    inputs = [value.detach().requires_grad_() for value in (tokens, weight, bias) if value is not None]
    out = linear(*inputs[:2], inputs[2] if bias is not None else None)
    return [out, *torch.autograd.grad((out.float() ** 2).sum(), inputs)]


@pytest.mark.parametrize("shape", [(5, 64), (2, 7, 64), (2, 3, 4, 64)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_without_bf16_units_it_is_the_rounded_fp32_map(
    shape: tuple[int, ...], has_bias: bool, monkeypatch: pytest.MonkeyPatch, relative_error
) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, weight = torch.randn(shape, generator=generator), torch.randn(48, 64, generator=generator) / 8
    bias = torch.randn(48, generator=generator) if has_bias else None
    rounded = [None if value is None else value.bfloat16() for value in (tokens, weight, bias)]
    expected = passed(True, *(None if value is None else value.float() for value in rounded), monkeypatch)
    found = passed(False, *rounded, monkeypatch)
    assert len(found) == len(expected) == 3 + has_bias
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16 and one.shape == other.shape
        assert relative_error(one.float(), other) < 4e-3
    assert torch.equal(found[0], expected[0].bfloat16()), "rounded once"


def test_only_what_is_trained_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_bf16_units", lambda: False)
    frozen = Linear(8, 4).bfloat16().requires_grad_(False)
    tokens = torch.randn(3, 8, dtype=torch.bfloat16, requires_grad=True)
    frozen(tokens).sum().backward()
    assert tokens.grad is not None and frozen.weight.grad is None
    trained = Linear(8, 4).bfloat16()
    trained(tokens.detach()).sum().backward()
    assert trained.weight.grad is not None and trained.bias.grad is not None
