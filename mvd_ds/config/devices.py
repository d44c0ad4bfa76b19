"""The table of accelerators: `plan` reads all of it, training the peak rate that its MFU is a share of."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Literal

from mvd_ds.config.base import Positive, Settings

TABLE = Path(__file__).with_name("devices.json")


class Device(Settings):
    """A row of ``devices.json``: what one accelerator, and the node that it usually sits in, can do."""

    name: str
    """The vendor's name of the device."""
    reported_as: str | None = None
    """Regular expression found in the name that the driver reports; a card that the row's numbers do not fit matches none."""
    memory_gib: float
    """Memory that torch sees, GiB."""
    bf16_tflops: float
    """Dense bf16 rate of the datasheet, TFLOP/s."""
    matrix_tflops: float
    """Rate that a large matrix product reaches, TFLOP/s."""
    memory_gb_per_second: float
    """Device memory, GB/s."""
    link_gb_per_second: float
    """Rate to the other devices of a node, GB/s in one direction."""
    link: Literal["nvlink", "pcie"]
    """Kind of that link."""
    host_link_gb_per_second: float
    """Rate to host memory, GB/s, as reached from pinned memory."""
    gpus_per_node: Positive
    """Devices of a usual node."""
    network: str
    """Network of a usual node: adapters x rate."""
    cores_per_node: Positive
    """CPU cores of a usual node."""
    host_memory_gib: float
    """Memory of a usual node, GiB."""
    fp32_share: float = 0.125
    """Share of the matrix rate that products in fp32 reach."""
    adam_bytes: float = 34.0
    """Bytes that AdamW moves for a parameter in a step: masters and moments read and written, gradient read, weight written."""
    efficiency: float = 0.45
    """Share of the matrix rate that a step is assumed to reach."""
    source: str
    """Where the numbers come from."""


@functools.cache
def devices() -> dict[str, Device]:
    """Return the rows of the table by short name."""
    return {name: Device.model_validate(row) for name, row in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def device_reported_as(name: str) -> str | None:
    """Return the short name of the device that the driver calls ``name``, None if the table does not know it."""
    return next((key for key, row in devices().items() if row.reported_as and re.search(row.reported_as, name)), None)


def peak_bf16_flops(name: str) -> float | None:
    """Return the dense bf16 FLOP/s of the device that the driver calls ``name``, None if the table does not know it."""
    key = device_reported_as(name)
    return None if key is None else devices()[key].bf16_tflops * 1e12
