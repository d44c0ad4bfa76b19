"""How fast the devices of a host multiply."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from mvd_ds.tools.doctor.findings import Finding

MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
PRODUCTS = {"cuda": 30, "cpu": 6}

PEAK_SHARE = 0.55
"""Of the datasheet's rate; a healthy H200 reaches 0.80 (790 of 989 TFLOP/s)."""
SLOW_RATIO = 1.25
"""A device or host this many times slower than the median of all is named."""


def check_matrix_product() -> Finding:
    """Rate of a square matrix product on every device of this host: bf16 on GPUs, fp32 on the CPU."""
    import torch

    cuda = torch.cuda.is_available()
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if cuda else [torch.device("cpu")]
    rates = [matrix_rate(device) for device in devices]
    slowest = min(range(len(rates)), key=rates.__getitem__)
    kind = f"bf16 TFLOP/s, {len(rates)} GPUs" if cuda else "fp32 TFLOP/s on the CPU"
    spread = f"{rates[slowest]:.3g} to {max(rates):.3g}" if len(rates) > 1 else f"{rates[0]:.3g}"
    text, facts = f"{spread} {kind}", {"tflops": rates[slowest]}
    peak = datasheet_rate(devices[0])
    if len(rates) > 1 and statistics.median(rates) > SLOW_RATIO * rates[slowest]:
        text += f"; GPU {slowest} is slow"
        return Finding("matrix product", "warn", text, f"nvidia-smi -q -d PERFORMANCE,CLOCK,POWER -i {slowest}", facts)
    if peak and rates[slowest] < PEAK_SHARE * peak:
        text += f", {rates[slowest] / peak:.0%} of the datasheet's {peak:.0f}"
        return Finding("matrix product", "warn", text, "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER", facts)
    return Finding("matrix product", "ok", text, facts=facts)


def matrix_rate(device: Any, clock: Callable[[], float] = time.monotonic) -> float:
    """TFLOP/s of a ``torch.device``, by the seconds of ``clock``."""
    import torch

    side = MATRIX_SIDE[device.type]
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    product = torch.empty_like(left)
    # A tenth as warm-up: the first products choose kernels and raise clocks.
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
    """Seconds of one call by ``clock``, the mean of ``times``."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = clock()
    for _ in range(times):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - started) / times
