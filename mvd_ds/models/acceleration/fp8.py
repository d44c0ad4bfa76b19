"""FP8 matrix products for frozen teachers: e4m3 values with a scale for every token and for every output channel.

Weights are rounded once. Each token is scaled by its largest value, so that one huge channel of a token costs the others
of that token alone their bits. Products are summed in fp32; norms, attention and the residual stream stay in bf16.

An e4m3 value has 3 bits of mantissa, which moves features by 2 to 4 %: whether that is too much is measured on real clips
when a teacher is placed (``similarity``), and a teacher that fails is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.models.layers import Block
from mvd_ds.models.linear import Linear, QueryKeyValue

#: Largest finite e4m3 value.
LARGEST = 448.0
#: Least cosine between features with and without FP8, at the 1st percentile of tokens.
LEAST_SIMILARITY = 0.999
#: Kernels take rows of 16 bytes.
ALIGNMENT = 16


class Fp8Linear(nn.Module):
    """A frozen linear map computed in FP8.

    Args:
        weight: (outputs, inputs), as it was trained.
        bias: (outputs,), or None.
    """

    weight_scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rounded, scale = quantise(weight)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_buffer("weight_scale", scale.t().contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs), in the type of ``tokens``."""
        rows, scale = quantise(tokens.flatten(0, -2))
        if tokens.is_cuda:
            product = torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.weight_scale,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        else:
            # The same arithmetic, so that tests can see what rounding does.
            product = F.linear(rows.float(), self.weight.float()) * scale * self.weight_scale
        product = product.to(tokens.dtype)
        product = product if self.bias is None else product + self.bias
        return product.unflatten(0, tokens.shape[:-1])


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round (R, C) to e4m3 (R, C); also return the fp32 (R, 1) that it has to be multiplied by."""
    largest = rows.abs().amax(dim=-1, keepdim=True).float()
    scale = largest.clamp_min(torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale


def use_fp8(model: nn.Module) -> None:
    """Compute every linear map in the blocks of a frozen model in FP8; the weights that it had are gone then."""
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        parts = [(block.attention, "qkv"), (block.attention, "projection")]
        for part, name in [*parts, *((block.mlp, name) for name, _ in block.mlp.named_children())]:
            setattr(part, name, _converted(getattr(part, name)))


def _converted(module: nn.Module) -> Fp8Linear:
    assert isinstance(module, Linear | QueryKeyValue)
    bias = module.bias if isinstance(module, Linear) else module.packed_bias()
    return Fp8Linear(module.weight.detach(), None if bias is None else bias.detach())


def fp8_obstacle(device: torch.device, dtype: torch.dtype, widths: list[int]) -> str | None:
    """Return the reason why a network cannot compute in FP8, or None.

    Args:
        device: device that it is on.
        dtype: type of its tokens.
        widths: inputs and outputs of its linear maps.
    """
    if device.type != "cuda":
        return f"it runs on {device.type}, and only GPUs multiply in FP8"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} is sm_{major}{minor}; FP8 begins with sm_89 (Ada) and sm_90 (Hopper)"
    if dtype != torch.bfloat16:
        return "engine.precision is not bf16"
    odd = [width for width in widths if width % ALIGNMENT]
    return f"width {odd[0]} is no multiple of {ALIGNMENT}" if odd else None


def similarity(features: Tensor, reference: Tensor) -> float:
    """Return the cosine between tokens of two versions of a network, at the 1st percentile of tokens.

    Raw features are ruled by a few huge channels that are the same in all tokens, and whose cosine is 1 whatever happens to the
    rest: every channel's mean over all tokens is taken off first, then each token is normed without parameters.

    Args:
        features, reference: (B, N, D), any float type.
    """
    found, expected = (tokens.float().flatten(0, 1) for tokens in (features, reference))
    mean = expected.mean(dim=0)
    found, expected = (F.layer_norm(tokens - mean, tokens.shape[-1:]) for tokens in (found, expected))
    return float(torch.quantile(F.cosine_similarity(found, expected, dim=-1), 0.01))
