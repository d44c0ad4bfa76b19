"""The comparison of hosts: package versions that differ, hosts that are slow, clocks that disagree."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import NamedTuple

from mvd_ds.tools.doctor.findings import Finding, HostReport

SLOW_RATIO = 1.25
"""A device or host that is this many times slower than the median of all is named."""
SKEW_SECONDS = 1.0
"""Difference of clocks that is told: logs are hard to compare, and builds take files to be from the future."""


class GroupSpeed(NamedTuple):
    """The speeds that a launched group measured.

    Attributes:
        whole: bus bandwidth of all-reduce over all processes, bytes/s; 0 for a single process.
        inside: bus bandwidth over the processes of each host alone, bytes/s; 0 for a single process.
        between: each host's best bus bandwidth with a neighbour, bytes/s; 0 with fewer than three hosts.
        clocks: seconds that each host's clock is ahead of the first one's.
        processes: number of processes of the group.
    """

    whole: float
    inside: list[float]
    between: list[float]
    clocks: list[float]
    processes: int


def compare_hosts(reports: list[HostReport]) -> list[HostReport]:
    """Return the reports with the findings of their comparison added."""
    findings = _other_packages(reports)
    rates = {report.host: rate for report in reports if isinstance(rate := report.fact("matrix product", "tflops"), float)}
    for host, ratio in slow_hosts(rates).items():
        text = f"{rates[host]:.3g} TFLOP/s, {ratio:.2f} times slower than the median host"
        remedy = "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER there; look for other programs"
        findings.setdefault(host, []).append(Finding("slow device", "warn", text, remedy))
    for report in reports if len(reports) > 1 else []:
        if str(report.fact("network", "address")).startswith("127."):
            remedy = "give the name its own address in /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
            finding = Finding("own address", "warn", "its name stands for 127.x: other hosts may not find it", remedy)
            findings.setdefault(report.host, []).append(finding)
    return [HostReport(report.host, [*report.findings, *findings.get(report.host, [])]) for report in reports]


def slow_hosts(rates: dict[str, float]) -> dict[str, float]:
    """Return the hosts clearly slower than the median and by which factor; empty for fewer than three hosts."""
    if len(rates) < 3:
        return {}
    middle = statistics.median(rates.values())
    return {host: middle / rate for host, rate in rates.items() if rate and middle > SLOW_RATIO * rate}


def _other_packages(reports: list[HostReport]) -> dict[str, list[Finding]]:
    """Return a finding for every host whose versions differ from those of most hosts: all ranks of a run must agree."""
    versions = {
        report.host: dict(finding.facts) for report in reports for finding in report.findings if finding.name == "packages"
    }
    names = sorted({name for facts in versions.values() for name in facts})
    usual = {name: Counter(facts.get(name) for facts in versions.values()).most_common(1)[0][0] for name in names}
    found: dict[str, list[Finding]] = {}
    for host, facts in versions.items():
        others = [
            f"{name} {facts.get(name, 'missing')} (most: {usual[name]})" for name in names if facts.get(name) != usual[name]
        ]
        if others:
            remedy = "install requirements.txt into one environment that all hosts see"
            found[host] = [Finding("same packages", "bad", f"other versions than most hosts: {', '.join(others)}", remedy)]
    return found


def judge_group(speed: GroupSpeed, hosts: list[str]) -> tuple[list[Finding], dict[str, list[Finding]]]:
    """Return the findings on the whole group, and those by host."""
    if speed.processes < 2:
        return [Finding("all-reduce", "ok", "one process: nothing to add up")], {}
    text = f"{_rate(speed.whole)} bus bandwidth over {speed.processes} processes on {len(hosts)} host{'s' * (len(hosts) > 1)}"
    by_host: dict[str, list[Finding]] = {host: [] for host in hosts}
    for host, inside, between in zip(hosts, speed.inside, speed.between, strict=True):
        parts = [f"{_rate(inside)} inside"] if inside else []
        parts += [f"{_rate(between)} with its better neighbour"] if between else []
        if parts:
            by_host[host].append(Finding("all-reduce", "ok", ", ".join(parts)))
    slow = _name_slow(by_host, "inside the host", speed.inside, hosts, "nvidia-smi topo -m; nvidia-smi nvlink -s")
    slow += _name_slow(by_host, "with its neighbours", speed.between, hosts, "ibstat, ethtool: look at its link")
    for host, ahead in zip(hosts, speed.clocks, strict=True):
        if abs(ahead) > SKEW_SECONDS:
            told = f"{ahead:+.1f} s from {hosts[0]}"
            by_host[host].append(Finding("clock", "warn", told, "sudo timedatectl set-ntp true, or mend chrony"))
    if slow:
        return [
            Finding("all-reduce", "warn", f"{text}; slow: {', '.join(slow)}", "the slowest host sets everybody's speed")
        ], by_host
    return [Finding("all-reduce", "ok", text)], by_host


def _name_slow(by_host: dict[str, list[Finding]], where: str, values: list[float], hosts: list[str], remedy: str) -> list[str]:
    """Add a finding to every host that is slow, and return the names of these hosts."""
    slow = slow_hosts({host: value for host, value in zip(hosts, values, strict=True) if value})
    for host, ratio in slow.items():
        by_host[host].append(Finding("slow all-reduce", "warn", f"{where} {ratio:.2f} times slower than the median", remedy))
    return list(slow)


def _rate(bandwidth: float) -> str:
    return f"{bandwidth / 1e9:.3g} GB/s"
