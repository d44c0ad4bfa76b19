"""The ``doctor`` command: it examines machines and their environment and prints a page of findings and remedies.

Three ways to ask. Alone: this host. ``--hostfile``: every host of the file through ssh, then a group over the healthy
ones, started as the launcher starts a training. Under a launcher (deepspeed, srun, torchrun): the group that it made.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mvd_ds.files import write_json
from mvd_ds.tools.doctor.checks import Question, host_checks
from mvd_ds.tools.doctor.compare import GroupSpeed, compare_hosts, judge_group
from mvd_ds.tools.doctor.findings import Finding, HostReport, findings_of, from_answer, run_checks, to_answer, worst
from mvd_ds.tools.doctor.host import write_token
from mvd_ds.tools.doctor.page import print_page
from mvd_ds.tools.doctor.ssh import (
    CHECK_SECONDS,
    GROUP_SECONDS,
    ask_all,
    check_ssh,
    doctor_command,
    failure_of,
    group_commands,
    read_hostfile,
)


class Diagnosis(NamedTuple):
    """The reports of all hosts, and the findings on the group that they form."""

    reports: list[HostReport]
    group: list[Finding]

    @property
    def healthy(self) -> bool:
        """Return whether nothing was found that stops training."""
        return worst(self.group) != "bad" and all(report.healthy for report in self.reports)


def doctor(hostfile: Path | None, json_file: Path | None, folders: list[Path]) -> int:
    """Examine, print the page, write the JSON: {"healthy", "hosts": {name: {"healthy", "reasons", "findings"}}, "group"}.

    Returns:
        0 if nothing was found that stops training, else 1.

    Raises:
        ConfigError: if the hostfile is not one.
    """
    # Log lines would repeat what the page shows.
    logging.getLogger("mvd_ds").setLevel(logging.WARNING)
    folders = [folder.absolute() for folder in folders]
    is_main = True
    if "RANK" in os.environ:
        from mvd_ds.tools.doctor.group import examine_group

        is_main, reports, group = examine_group(folders)
    elif hostfile is not None:
        reports, group = _examine_hosts(read_hostfile(hostfile), folders)
    else:
        reports, group = _examine_here(folders)
    diagnosis = Diagnosis(compare_hosts(reports), group)
    if is_main:
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            write_json(json_file, _as_json(diagnosis))
        print_page(diagnosis.reports, diagnosis.group)
    return 0 if diagnosis.healthy else 1


def answer_doctor(kind: str, folders: list[Path], token: str) -> int:
    """Answer the doctor that started this process in one line: with the findings on this host, or the speed of the group.

    Args:
        token: ``TOKEN@WRITER`` of the asking doctor.
    """
    if kind == "group":
        from mvd_ds.tools.doctor.group import answer_group

        answer_group()
        return 0
    name, _, writer = token.partition("@")
    findings = run_checks(host_checks(Question(tuple(folders), name, writer)))
    print(to_answer([finding._asdict() for finding in findings]), flush=True)
    return 0


def _as_json(diagnosis: Diagnosis) -> dict[str, object]:
    together = HostReport("group", diagnosis.group).as_json()
    return {
        "healthy": diagnosis.healthy,
        "hosts": {report.host: report.as_json() for report in diagnosis.reports},
        "group": together,
    }


def _examine_here(folders: list[Path]) -> tuple[list[HostReport], list[Finding]]:
    """Examine this host, and its devices as a group if there are several."""
    import torch

    host = socket.gethostname()
    findings = run_checks(host_checks(Question(tuple(folders))))
    if torch.cuda.device_count() < 2:
        return [HostReport(host, findings)], []
    command = group_commands({host: torch.cuda.device_count()}, "127.0.0.1", ["--answer", "group"])[host]
    try:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=GROUP_SECONDS)
    except subprocess.TimeoutExpired:
        return [HostReport(host, findings)], [_no_group(f"no all-reduce within {GROUP_SECONDS} s")]
    answer = from_answer(done.stdout)
    if answer is None:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        return [HostReport(host, findings)], [_no_group(lines[-1])]
    group, by_host = judge_group(GroupSpeed(**answer), [host])
    return [HostReport(host, [*findings, *by_host.get(host, [])])], group


def _examine_hosts(hosts: dict[str, int], folders: list[Path]) -> tuple[list[HostReport], list[Finding]]:
    """Examine every host alone, then those without a fault as a group; a host that does not answer costs a bounded time."""
    found = {host: [finding] for host, finding in check_ssh(hosts).items()}
    awake = [host for host in hosts if worst(found[host]) != "bad"]
    with _tokens(folders) as token:
        arguments = ["--answer", "host", "--token", f"{token}@{socket.gethostname()}"]
        arguments += [text for folder in folders for text in ("--folder", str(folder))]
        replies = ask_all(dict.fromkeys(awake, doctor_command(arguments)), CHECK_SECONDS)
    for host, reply in replies.items():
        answer = from_answer(reply.output)
        found[host] += (
            [Finding("doctor", "bad", *failure_of(host, reply, CHECK_SECONDS))] if answer is None else findings_of(answer)
        )
    able = {host: slots for host, slots in hosts.items() if worst(found[host]) != "bad"}
    group, by_host = _examine_together(able, str(found[next(iter(able))][0].facts["address"])) if able else ([], {})
    return [HostReport(host, [*found[host], *by_host.get(host, [])]) for host in hosts], group


def _examine_together(hosts: dict[str, int], address: str) -> tuple[list[Finding], dict[str, list[Finding]]]:
    """Measure a group over all slots of ``hosts``; return the findings on it, and those by host."""
    replies = ask_all(group_commands(hosts, address, ["--answer", "group"]), GROUP_SECONDS)
    answer = next((found for reply in replies.values() if (found := from_answer(reply.output)) is not None), None)
    if answer is not None:
        return judge_group(GroupSpeed(**answer), list(hosts))
    # The host that failed by itself says more than those that waited for it.
    host = min(replies, key=lambda name: (replies[name].code is None, replies[name].ended))
    reason, _ = failure_of(host, replies[host], GROUP_SECONDS)
    return [_no_group(f"{', '.join(hosts)} could not form a group; the first to end, {host}: {reason}")], {}


def _no_group(text: str) -> Finding:
    remedy = "NCCL_DEBUG=INFO and the same again; firewalls, and NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME"
    return Finding("all-reduce", "bad", text, remedy)


@contextlib.contextmanager
def _tokens(folders: list[Path]) -> Iterator[str]:
    """Keep a token file in every folder that can be written, while the hosts look for it."""
    token = uuid.uuid4().hex
    written = [write_token(folder, token) for folder in folders]
    try:
        yield token
    finally:
        for path in written:
            if path is not None:
                path.unlink(missing_ok=True)
