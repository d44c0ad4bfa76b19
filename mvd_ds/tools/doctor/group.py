"""A launched group examines itself: every host by one of its processes, all-reduce by all of them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import NamedTuple

from mvd_ds.tools.doctor.checks import Question, host_checks
from mvd_ds.tools.doctor.compare import GroupSpeed, judge_group
from mvd_ds.tools.doctor.findings import Finding, HostReport, findings_of, run_checks, to_answer
from mvd_ds.tools.doctor.host import write_token
from mvd_ds.tools.doctor.speed import measure_reductions, ranks_by_host
from mvd_ds.tools.doctor.ssh import GROUP_SECONDS
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import joined_cluster

TIMEOUT_MINUTES = max(GROUP_SECONDS // 60 - 1, 1)
"""Within the time that the asking doctor waits."""


class Examined(NamedTuple):
    """What a group found, on every rank alike."""

    is_main: bool
    reports: list[HostReport]
    group: list[Finding]


def answer_group() -> None:
    """Measure, and say it on rank 0 for the doctor that has started this group."""
    with joined_cluster(TIMEOUT_MINUTES) as cluster:
        speed = _measure(cluster, list(ranks_by_host(cluster).values()))
        if cluster.is_main:
            print(to_answer(speed._asdict()), flush=True)


def examine_group(folders: list[Path]) -> Examined:
    """All checks on all hosts of the group this process was launched in."""
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
    """Findings by host, on every rank. Collective: the other processes of a host wait."""
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
