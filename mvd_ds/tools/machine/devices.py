"""Machines: a device of the table or of this host, the node around it and its network."""

from __future__ import annotations

import os
import re
import time
from typing import Any, NamedTuple

from mvd_ds.config import ConfigError
from mvd_ds.config.devices import TABLE, Device, device_reported_as, devices
from mvd_ds.files import did_you_mean

#: Share of a link's rate that collectives reach: 230 of 300 GB/s on NVLink, 150 of 200 GB/s on 8 x 200 Gb/s InfiniBand.
LINK_SHARE = 0.75
#: Seconds of one hop of a ring by kind of link, and of the start of a collective.
#: Source: NCCL, ``src/graph/tuning.cc``, protocol Simple.
HOP_SECONDS = {"nvlink": 3.4e-6, "pcie": 5.7e-6, "network": 14.0e-6}
START_SECONDS = 8.4e-6
#: Bandwidth from a CPU process to another by gloo, GB/s in one direction; a rough figure.
CPU_LINK = 1.0
#: Share of a core's matrix rate that a step reaches: measured 0.98 at base width, 0.80 at small (tests/benchmarks).
CPU_EFFICIENCY = 0.9
#: Bytes that torch's AdamW moves for each parameter on a CPU, where it is not fused.
CPU_ADAM_BYTES = 60.0

_NETWORK = re.compile(r"^(?:(?P<adapters>\d+)x)?(?P<rate>\d+(?:\.\d+)?)(?P<unit>Gb/s|GB/s)$")


class Machine(NamedTuple):
    """A cluster of equal nodes with one kind of device.

    Attributes:
        network: bandwidth of a node, bytes/s in one direction.
        efficiency: share of the device's matrix rate that a step's arithmetic reaches.
    """

    device: Device
    network: float
    gpus_per_node: int
    cores_per_node: int
    efficiency: float

    def nodes(self, gpus: int) -> int:
        """Return the number of nodes that ``gpus`` fill."""
        return -(-gpus // self.gpus_per_node)

    def collective_seconds(self, size: float, calls: float, gpus: int) -> float:
        """Return the seconds of all-gathers or reduce-scatters that move ``size`` bytes in ``calls`` calls.

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


def this_cpu() -> Device:
    """Return one core of this host as a device, its rates measured by CPU time; processes share its memory."""
    import torch

    from mvd_ds.tools.machine.matmul import matrix_rate, seconds_of

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    values = torch.ones(2**24)
    rate = matrix_rate(cpu, time.process_time)
    # Read twice, written once: the traffic of an optimizer step.
    seconds = seconds_of(lambda: values.add_(values, alpha=0.0), cpu, 5, time.process_time)
    torch.set_num_threads(threads)
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    bandwidth = 2 * 4 * values.numel() / seconds / 1e9
    return Device(
        name="CPU core",
        memory_gib=memory / cores,
        bf16_tflops=rate,
        matrix_tflops=rate,
        memory_gb_per_second=bandwidth,
        link_gb_per_second=CPU_LINK,
        link="pcie",
        host_link_gb_per_second=bandwidth,
        gpus_per_node=cores,
        network="1x10Gb/s",
        cores_per_node=cores,
        host_memory_gib=memory,
        fp32_share=1.0,
        adam_bytes=CPU_ADAM_BYTES,
        efficiency=CPU_EFFICIENCY,
        source="measured here, one thread, CPU time; its link is gloo's, assumed",
    )


def this_machine(device: Any) -> Machine:
    """Return the machine of a ``torch.device``: a core, or a GPU of the table by its name, its matrix rate measured now.

    Raises:
        ConfigError: for a GPU that is not in the table.
    """
    import torch

    from mvd_ds.tools.machine.matmul import matrix_rate

    if device.type == "cpu":
        return find_machine("cpu", None, None, None)
    named = torch.cuda.get_device_name(device)
    key = device_reported_as(named)
    if key is None:
        raise ConfigError(f"{named} is not in {TABLE.name}, which holds {', '.join(devices())}; add a row for it")
    found = find_machine(key, None, None, None)
    return found._replace(device=found.device.model_copy(update={"matrix_tflops": matrix_rate(device)}))


def find_machine(
    gpu: str, network: str | None, gpus_per_node: int | None, cores_per_node: int | None, efficiency: float | None = None
) -> Machine:
    """Return the machine that a plan is for.

    Args:
        gpu: short name of a device; ``cpu``: a core of this host, measured now.
        efficiency: share of the device's matrix rate that a step reaches; None: the device's own.
        network: adapters of a node, ``8x400Gb/s``; without a number, one adapter a GPU. None: the usual ones.

    Raises:
        ConfigError: if the device or the network cannot be understood.
    """
    if gpu not in devices() and gpu != "cpu":
        hint = did_you_mean(gpu, devices(), "no name is near it;")
        raise ConfigError(f"--gpu {gpu}: not known; {hint} there are {', '.join(devices())}, cpu ({TABLE.name} holds them)")
    device = this_cpu() if gpu == "cpu" else devices()[gpu]
    per_node = gpus_per_node or device.gpus_per_node
    rate = read_network(network or device.network, per_node)
    return Machine(device, rate, per_node, cores_per_node or device.cores_per_node, efficiency or device.efficiency)


def read_network(text: str, gpus_per_node: int) -> float:
    """Return the bytes/s of a node's adapters together.

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
