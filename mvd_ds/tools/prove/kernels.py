"""Every attention kernel of this machine, forward and backward, against eager attention in fp32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mvd_ds.files import ConfigError
from mvd_ds.models.attention import KERNELS, choose_kernel
from mvd_ds.tools.prove.record import Record, relative_error

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative L2 error by precision: bf16 keeps 8 bits, and each output is a sum of rounded products."""
SHAPES = {"encoder": (4, 160, 3, 16, 64), "decoder": (2, 1568, 3, 6, 64), "huge": (2, 160, 3, 16, 80)}
"""(B, N, 3, heads, d): visible tokens of a clip, all tokens in a decoder, and the head width of ViT-H."""
SMALL = {"encoder": (2, 40, 3, 4, 64), "decoder": (1, 392, 3, 2, 64), "huge": (1, 40, 3, 4, 80)}
"""The same for a CPU."""


def run(record: Record, device: torch.device) -> None:
    """Check every kernel in fp32 and bf16 at three shapes; kernels that cannot run here are named with the reason."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for shape_name, shape in (SHAPES if device.type == "cuda" else SMALL).items():
        for dtype, bound in BOUNDS.items():
            generator = torch.Generator().manual_seed(0)
            qkv = torch.randn(shape, generator=generator).to(dtype)
            outer = torch.randn(*shape[:2], *shape[3:], generator=generator).to(dtype)
            expected = _pass(KERNELS["eager"], qkv.float(), outer.float())
            for kernel, function in KERNELS.items():
                where = f"{kernel}, {shape_name}, {str(dtype).removeprefix('torch.')}"
                try:
                    choose_kernel(kernel, device, dtype, shape[-1])
                except ConfigError as error:
                    record.skip(where, error)
                    continue
                found = _pass(function, qkv.to(device), outer.to(device))
                for direction, ours, theirs in zip(("forward", "backward"), found, expected, strict=True):
                    record.check(f"{where}, {direction}", relative_error(ours, theirs), bound)


def _pass(kernel: Callable[[Tensor], Tensor], qkv: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output (B, N, heads, d) and the gradient of ``qkv`` for the output gradient ``outer``."""
    qkv = qkv.clone().requires_grad_()
    output = kernel(qkv)
    output.backward(outer)
    assert qkv.grad is not None
    return output, qkv.grad
