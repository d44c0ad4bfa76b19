"""What a plan knows of machines: the table of devices, nodes and networks."""

from __future__ import annotations

import difflib
import functools
import json
import re
from pathlib import Path
from typing import Literal, NamedTuple

from mvd_ds.config import ConfigError
from mvd_ds.config.base import Positive, Settings

TABLE = Path(__file__).with_name("devices.json")

#: Of a link's rate that collectives reach. 230 of 300 GB/s on NVLink, 150 of 200 GB/s on 8 x 200 Gb/s InfiniBand.
LINK_SHARE = 0.75
#: Seconds of one hop of a ring by kind of link, and to begin with. Source: NCCL, ``src/graph/tuning.cc``, protocol Simple.
HOP_SECONDS = {"nvlink": 3.4e-6, "pcie": 5.7e-6, "network": 14.0e-6}
START_SECONDS = 8.4e-6

_NETWORK = re.compile(r"^(?:(?P<adapters>\d+)x)?(?P<rate>\d+(?:\.\d+)?)(?P<unit>Gb/s|GB/s)$")


class Device(Settings):
    """A row of ``devices.json``."""

    name: str
    """As the vendor calls it."""
    memory_gib: float
    """That torch sees, GiB."""
    bf16_tflops: float
    """Dense bf16 rate of the datasheet, TFLOP/s."""
    matrix_tflops: float
    """What a large matrix product reaches, TFLOP/s."""
    memory_gb_per_second: float
    """Device memory, GB/s."""
    link_gb_per_second: float
    """To the other devices of a node, GB/s in one direction."""
    link: Literal["nvlink", "pcie"]
    """Kind of that link."""
    host_link_gb_per_second: float
    """To host memory, GB/s, as reached from pinned memory."""
    gpus_per_node: Positive
    """Devices of a usual node."""
    network: str
    """Of a usual node: adapters x rate."""
    cores_per_node: Positive
    """CPU cores of a usual node."""
    host_memory_gib: float
    """Memory of a usual node, GiB."""
    source: str
    """Where the numbers come from."""


class Machine(NamedTuple):
    """What a plan runs on.

    Attributes:
        network: of a node, bytes/s in one direction.
        efficiency: of the device's matrix rate that a step's arithmetic reaches.
    """

    device: Device
    network: float
    gpus_per_node: int
    cores_per_node: int
    efficiency: float

    def nodes(self, gpus: int) -> int:
        """Nodes that ``gpus`` fill."""
        return -(-gpus // self.gpus_per_node)

    def collective_seconds(self, size: float, calls: float, gpus: int) -> float:
        """Seconds of all-gathers or reduce-scatters that move ``size`` bytes in ``calls`` calls.

        A ring of n processes moves (n - 1)/n of the bytes through every link. Inside a node that is the device's own; between
        nodes the adapters of a node carry the (nodes - 1)/nodes that leave it. Every call waits for the hops of the ring.

        Source: nccl-tests, PERFORMANCE.md (bytes); NCCL's tuning model (hops).
        """
        if gpus < 2:
            return 0.0
        nodes = self.nodes(gpus)
        inside = size * (gpus - 1) / gpus / (LINK_SHARE * self.device.link_gb_per_second * 1e9)
        between = size * (nodes - 1) / nodes / (LINK_SHARE * self.network)
        hops = (gpus - nodes) * HOP_SECONDS[self.device.link] + (nodes - 1) * HOP_SECONDS["network"]
        return max(inside, between) + calls * (START_SECONDS + hops)


@functools.cache
def devices() -> dict[str, Device]:
    """The table, by short name."""
    return {name: Device.model_validate(row) for name, row in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def find_machine(
    gpu: str, network: str | None, gpus_per_node: int | None, cores_per_node: int | None, efficiency: float
) -> Machine:
    """The machine that a plan is for.

    Args:
        gpu: short name of a device.
        network: of a node, ``8x400Gb/s``; one adapter a GPU where no number of adapters is given. None: a usual one.

    Raises:
        ConfigError: if the device or the network cannot be understood.
    """
    if gpu not in devices():
        near = difflib.get_close_matches(gpu, devices(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--gpu {gpu}: not known; {hint}there are {', '.join(devices())} ({TABLE.name} holds them)")
    device = devices()[gpu]
    per_node = gpus_per_node or device.gpus_per_node
    return Machine(
        device, read_network(network or device.network, per_node), per_node, cores_per_node or device.cores_per_node, efficiency
    )


def read_network(text: str, gpus_per_node: int) -> float:
    """Bytes/s of a node's adapters together.

    Raises:
        ConfigError: if ``text`` is not ADAPTERSxRATE.
    """
    found = _NETWORK.match(text)
    if found is None or not float(found["rate"]):
        raise ConfigError(
            f"--network {text}: write 400Gb/s (one adapter a GPU), or 2x200Gb/s (adapters of a node, and the rate of each)"
        )
    rate = float(found["rate"]) * (1e9 if found["unit"] == "GB/s" else 1e9 / 8)
    return rate * int(found["adapters"] or gpus_per_node)
