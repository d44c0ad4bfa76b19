"""How fast the processes of a launched group add up: by host, so that a slow one can be named."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

import torch
import torch.distributed as dist

from mvd_ds.tools.machine.matmul import seconds_of
from mvd_ds.training.cluster import Cluster

REDUCED_BYTES = {"cuda": 256 << 20, "cpu": 8 << 20}
REDUCTIONS = {"cuda": 20, "cpu": 5}


class Reductions(NamedTuple):
    """All-reduce of a launched group.

    Attributes:
        whole: bus bandwidth over all processes, bytes/s.
        inside: over the processes of each host alone, 0 where there is only one.
        between: each host's best with a neighbour, 0 with fewer than three hosts: a link has two ends, so
            two hosts cannot tell which of them is slow.
    """

    whole: float
    inside: list[float]
    between: list[float]


def host_index() -> int:
    """Which host of the launched group this is: told by the launcher (DeepSpeed, torchrun, SLURM)."""
    for name in ("CROSS_RANK", "GROUP_RANK", "SLURM_NODEID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def ranks_by_host(cluster: Cluster) -> dict[str, list[int]]:
    """Ranks of every host, hosts in the order of their ranks. Collective."""
    places = cluster.gather((host_index(), socket.gethostname()))
    hosts: dict[tuple[int, str], list[int]] = {}
    for rank, place in enumerate(places):
        hosts.setdefault(place, []).append(rank)
    names = [name for _, name in hosts]
    # Several launchers on one machine, as in a test, are several hosts.
    return {name if names.count(name) == 1 else f"{name}#{index}": ranks for (index, name), ranks in hosts.items()}


def measure_reductions(cluster: Cluster, hosts: list[list[int]]) -> Reductions:
    """Bus bandwidth of all-reduce: everybody, each host, and neighbours in a ring of hosts. Collective.

    Bus bandwidth is 2 (n - 1) / n bytes over the seconds of the slowest, which does not depend on n where links are
    equal. Source: nccl-tests, PERFORMANCE.md.
    """
    whole = _bandwidth(cluster, list(range(cluster.world)), dist.group.WORLD)
    inside = _phase(cluster, hosts)
    best = [0.0] * len(hosts)
    for edges in ring_phases(len(hosts)):
        measured = _phase(cluster, [hosts[left] + hosts[right] for left, right in edges])
        for (left, right), bandwidth in zip(edges, measured, strict=True):
            best[left], best[right] = max(best[left], bandwidth), max(best[right], bandwidth)
    return Reductions(whole, inside, best)


def ring_phases(hosts: int) -> list[list[tuple[int, int]]]:
    """Edges of a ring of hosts in phases in which every host is asked at most once; none with fewer than three."""
    if hosts < 3:
        return []
    edges = [(index, (index + 1) % hosts) for index in range(hosts)]
    even, odd = edges[: hosts - hosts % 2 : 2], edges[1:hosts:2]
    return [even, odd] if hosts % 2 == 0 else [even, odd, edges[-1:]]


def _phase(cluster: Cluster, members: list[list[int]]) -> list[float]:
    """Bandwidth of every group of ranks, all at the same time. Collective over everybody."""
    groups = [dist.new_group(ranks) for ranks in members]
    mine = next((place for place, ranks in enumerate(members) if cluster.rank in ranks), None)
    measured = _bandwidth(cluster, members[mine], groups[mine]) if mine is not None else 0.0
    values = cluster.gather(measured)
    return [min(values[rank] for rank in ranks) for ranks in members]


def _bandwidth(cluster: Cluster, ranks: list[int], group: object) -> float:
    """Bus bandwidth that this rank sees, bytes/s; 0 for one process."""
    if len(ranks) < 2:
        return 0.0
    kind = cluster.device.type
    values = torch.zeros(REDUCED_BYTES[kind] // 4, device=cluster.device)
    seconds_of(lambda: dist.all_reduce(values, group=group), cluster.device, 2)
    seconds = seconds_of(lambda: dist.all_reduce(values, group=group), cluster.device, REDUCTIONS[kind])
    return 2 * (len(ranks) - 1) / len(ranks) * REDUCED_BYTES[kind] / seconds
