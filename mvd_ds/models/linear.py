"""Linear maps with the initial weights of MAE, VideoMAE and MVD."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """``nn.Linear`` that starts from Xavier-uniform weights and zero bias."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., D')."""
        return linear(tokens, self.weight, self.bias)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``; in bf16 on a CPU that cannot multiply bf16, by its fp32 units.

    There torch has plain loops: 10 GFLOP/s forward and 0.8 for the gradient of the tokens, where fp32 has 70 and 80 (a core
    with AVX2). Sums are in fp32 and rounded once, as bf16 units have it.
    """
    if tokens.device.type == "cpu" and tokens.dtype == torch.bfloat16 and not _has_bf16_units():
        return _Bf16ByFp32.apply(tokens, weight, bias)
    return F.linear(tokens, weight, bias)


@functools.cache
@torch.compiler.assume_constant_result
def _has_bf16_units() -> bool:
    """What oneDNN says, which torch asks; a torch without it has loops of its own for its CPUs."""
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is None or bool(asked())


class _Bf16ByFp32(torch.autograd.Function):
    """Keeps bf16 for the backward pass, and makes fp32 of it once more."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return F.linear(tokens.float(), weight.float(), None if bias is None else bias.float()).to(tokens.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2).float()
        needs_tokens, needs_weight, needs_bias = ctx.needs_input_grad
        of_tokens = (rows @ weight.float()).to(gradient.dtype).view_as(tokens) if needs_tokens else None
        of_weight = (rows.t() @ tokens.flatten(0, -2).float()).to(gradient.dtype) if needs_weight else None
        return of_tokens, of_weight, rows.sum(0).to(gradient.dtype) if needs_bias else None


class QueryKeyValue(nn.Module):
    """The packed projection of tokens to queries, keys and values.

    ``query_value`` has learned biases for queries and values and none for keys (softmax does not see a key bias: it
    adds the same number to a whole row). Source: BEiT, VideoMAE, MVD. ``full`` has one bias for all three. Source: timm, MAE.
    """

    def __init__(self, width: int, bias: Literal["query_value", "full"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.full_bias = bias == "full"
        if self.full_bias:
            self.bias = nn.Parameter(torch.empty(3 * width))
        else:
            self.q_bias = nn.Parameter(torch.empty(width))
            self.v_bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights: Xavier-uniform over the packed (3D, D) matrix, zero biases."""
        nn.init.xavier_uniform_(self.weight, generator=generator)
        for bias in (self.bias,) if self.full_bias else (self.q_bias, self.v_bias):
            nn.init.zeros_(bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, 3D): queries, then keys, then values."""
        return linear(tokens, self.weight, self.packed_bias())

    def packed_bias(self) -> Tensor:
        """(3D,), of which the part for keys is zeros unless ``full``."""
        if self.full_bias:
            return self.bias
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
