"""The checks of a launched group: one process examines each host, all processes measure all-reduce, by host."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from mvd_ds.tools.doctor.checks import Question, host_checks
from mvd_ds.tools.doctor.compare import GroupSpeed, judge_group
from mvd_ds.tools.doctor.findings import Finding, HostReport, findings_of, run_checks, to_answer
from mvd_ds.tools.doctor.host import write_token
from mvd_ds.tools.doctor.ssh import GROUP_SECONDS
from mvd_ds.tools.machine.matmul import seconds_of
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import joined_cluster

TIMEOUT_MINUTES = max(GROUP_SECONDS // 60 - 1, 1)
"""Time limit of the group's collectives, minutes: within the time that the asking doctor waits."""
REDUCED_BYTES = {"cuda": 256 << 20, "cpu": 8 << 20}
REDUCTIONS = {"cuda": 20, "cpu": 5}


class Examined(NamedTuple):
    """The result of a group, the same on every rank."""

    is_main: bool
    reports: list[HostReport]
    group: list[Finding]


def answer_group() -> None:
    """Measure the group, and answer on rank 0 the doctor that has started it."""
    with joined_cluster(TIMEOUT_MINUTES) as cluster:
        speed = _measure(cluster, list(ranks_by_host(cluster).values()))
        if cluster.is_main:
            print(to_answer(speed._asdict()), flush=True)


def examine_group(folders: list[Path]) -> Examined:
    """Run all checks on all hosts of the group that this process was launched in. Collective."""
    with joined_cluster(TIMEOUT_MINUTES) as cluster:
        hosts = ranks_by_host(cluster)
        names = list(hosts)
        token = cluster.broadcast(uuid.uuid4().hex)
        written = [write_token(folder, token) for folder in folders] if cluster.is_main else []
        cluster.barrier()
        try:
            findings = _findings(cluster, hosts, Question(tuple(folders), token, names[0]))
        finally:
            cluster.barrier()
            for path in written:
                if path is not None:
                    path.unlink(missing_ok=True)
        speed = _measure(cluster, list(hosts.values()))
        group, by_host = judge_group(speed, names)
        reports = [HostReport(name, [*findings[name], *by_host.get(name, [])]) for name in names]
        return Examined(cluster.is_main, reports, group)


def _findings(cluster: Cluster, hosts: dict[str, list[int]], question: Question) -> dict[str, list[Finding]]:
    """Return the findings by host, on every rank. Collective: one process of a host checks, the others wait."""
    mine = []
    if any(cluster.rank == ranks[0] for ranks in hosts.values()):
        mine = [finding._asdict() for finding in run_checks(host_checks(question))]
    gathered = cluster.gather(mine)
    return {name: findings_of(gathered[ranks[0]]) for name, ranks in hosts.items()}


def _measure(cluster: Cluster, hosts: list[list[int]]) -> GroupSpeed:
    reductions = measure_reductions(cluster, hosts)
    cluster.barrier()
    clocks = cluster.gather(time.time())
    return GroupSpeed(*reductions, [clocks[ranks[0]] - clocks[0] for ranks in hosts], cluster.world)


class Reductions(NamedTuple):
    """The bus bandwidths of all-reduce in a launched group.

    Attributes:
        whole: bus bandwidth over all processes, bytes/s.
        inside: bus bandwidth over the processes of each host alone, bytes/s; 0 for a single process.
        between: each host's best with a neighbour, bytes/s; 0 with fewer than three hosts: a link has two ends, so
            two hosts cannot tell which of them is slow.
    """

    whole: float
    inside: list[float]
    between: list[float]


def host_index() -> int:
    """Return the index of this host in the launched group, as the launcher says it (DeepSpeed, torchrun, SLURM)."""
    for name in ("CROSS_RANK", "GROUP_RANK", "SLURM_NODEID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def ranks_by_host(cluster: Cluster) -> dict[str, list[int]]:
    """Return the ranks of every host, hosts in the order of their ranks. Collective."""
    places = cluster.gather((host_index(), socket.gethostname()))
    hosts: dict[tuple[int, str], list[int]] = {}
    for rank, place in enumerate(places):
        hosts.setdefault(place, []).append(rank)
    names = [name for _, name in hosts]
    # Several launchers on one machine, as in a test, are several hosts.
    return {name if names.count(name) == 1 else f"{name}#{index}": ranks for (index, name), ranks in hosts.items()}


def measure_reductions(cluster: Cluster, hosts: list[list[int]]) -> Reductions:
    """Measure the bus bandwidth of all-reduce over everybody, each host, and neighbours in a ring of hosts. Collective.

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
    """Return the edges of a ring of hosts in phases that use each host at most once; none for fewer than three hosts."""
    if hosts < 3:
        return []
    edges = [(index, (index + 1) % hosts) for index in range(hosts)]
    even, odd = edges[: hosts - hosts % 2 : 2], edges[1:hosts:2]
    return [even, odd] if hosts % 2 == 0 else [even, odd, edges[-1:]]


def _phase(cluster: Cluster, members: list[list[int]]) -> list[float]:
    """Return the bandwidth of every group of ranks, measured at the same time. Collective over everybody."""
    groups = [dist.new_group(ranks) for ranks in members]
    mine = next((place for place, ranks in enumerate(members) if cluster.rank in ranks), None)
    measured = _bandwidth(cluster, members[mine], groups[mine]) if mine is not None else 0.0
    values = cluster.gather(measured)
    return [min(values[rank] for rank in ranks) for ranks in members]


def _bandwidth(cluster: Cluster, ranks: list[int], group: Any) -> float:
    """Return the bus bandwidth that this rank measures, bytes/s; 0 for one process."""
    if len(ranks) < 2:
        return 0.0
    kind = cluster.device.type
    values = torch.zeros(REDUCED_BYTES[kind] // 4, device=cluster.device)
    seconds_of(lambda: dist.all_reduce(values, group=group), cluster.device, 2)
    seconds = seconds_of(lambda: dist.all_reduce(values, group=group), cluster.device, REDUCTIONS[kind])
    return 2 * (len(ranks) - 1) / len(ranks) * REDUCED_BYTES[kind] / seconds
