"""Measures how fast a device multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
PRODUCTS = {"cuda": 30, "cpu": 6}


def matrix_rate(device: Any, clock: Callable[[], float] = time.monotonic) -> float:
    """Return the TFLOP/s of a square matrix product on a ``torch.device``: bf16 on a GPU, fp32 on the CPU.

    Args:
        clock: returns seconds.
    """
    import torch

    side = MATRIX_SIDE[device.type]
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    product = torch.empty_like(left)
    # The warm-up is a tenth: the first products choose kernels and raise clocks.
    seconds_of(lambda: torch.mm(left, left, out=product), device, max(PRODUCTS[device.type] // 10, 1))
    seconds = seconds_of(lambda: torch.mm(left, left, out=product), device, PRODUCTS[device.type], clock)
    return 2 * side**3 / seconds / 1e12


def datasheet_rate(device: Any) -> float | None:
    """Return the TFLOP/s of the device's datasheet, None if the table of devices does not know it."""
    import torch

    from mvd_ds.config.devices import peak_bf16_flops

    peak = peak_bf16_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if peak is None else peak / 1e12


def seconds_of(function: Callable[[], object], device: Any, times: int, clock: Callable[[], float] = time.monotonic) -> float:
    """Return the mean seconds of a call over ``times`` calls, by ``clock``."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = clock()
    for _ in range(times):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - started) / times
