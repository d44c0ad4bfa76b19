"""The processes of a launch on other hosts, ended through pdsh and ssh, and the check that these hosts are healthy."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from mvd_ds.tools.launch.hosts import Host
from mvd_ds.tools.launch.processes import MARK

#: Time limit of a connection; a host that takes longer counts as dead.
CONNECT_SECONDS = 10
ALIVE_SECONDS = 15
ROOT = Path(__file__).resolve().parents[3]
#: Time limit of `doctor` for all hosts: its own limits, 20 + 240 + 420 s, and its start.
DOCTOR_SECONDS = 720


def ssh_options(timeout_minutes: float) -> str:
    """Return options of ssh: never ask for a password, and give up a silent host only after the collectives have done so.

    A network that is cut for less than ``engine.timeout_minutes`` must change nothing, so ssh waits half a minute longer.
    """
    count = math.ceil((timeout_minutes * 60 + 30) / ALIVE_SECONDS)
    return (
        f"-o BatchMode=yes -o ConnectTimeout={CONNECT_SECONDS} "
        f"-o ServerAliveInterval={ALIVE_SECONDS} -o ServerAliveCountMax={count}"
    )


def end_remote(launch: str, hosts: list[Host], grace_seconds: int) -> None:
    """Send SIGTERM, then SIGKILL, to the processes of ``launch`` on all ``hosts`` that answer.

    Plain shell: it must work when the shared folder, and with it our Python, does not.
    """
    find = f"grep -lsaz '^{MARK}={launch}$' /proc/[0-9]*/environ | cut -d/ -f3"
    script = (
        f'p=$({find}); [ -z "$p" ] && exit; kill -TERM $p 2>/dev/null; '
        f'for i in $(seq {grace_seconds}); do sleep 1; p=$({find}); [ -z "$p" ] && exit; done; kill -KILL $p 2>/dev/null'
    )
    _on_hosts(hosts, script, grace_seconds + CONNECT_SECONDS + 20)


def silent_hosts(hosts: list[Host]) -> dict[str, str]:
    """Return the hosts on which ssh cannot run a command, with the reason."""
    answered = _on_hosts(hosts, "echo mvd_ds-is-here", CONNECT_SECONDS + 20)
    here = {line.partition(":")[0] for line in answered.splitlines() if line.endswith("mvd_ds-is-here")}
    return {host.name: f"does not answer ssh within {CONNECT_SECONDS} s" for host in hosts if host.name not in here}


def sick_hosts(hosts: list[Host], run: Path, folder: Path) -> dict[str, str]:
    """Return the hosts that should not take part, with the reasons that ``doctor`` finds.

    Args:
        run: folder of the run, which all hosts must share.
        folder: folder to write ``doctor_hosts`` and ``doctor.json`` to.
    """
    question, answer = folder / "doctor_hosts", folder / "doctor.json"
    question.write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mvd_ds", "doctor", "--hostfile", str(question), "--json", str(answer), "--folder", str(run)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    try:
        subprocess.run(command, env=environment, capture_output=True, timeout=DOCTOR_SECONDS, check=False)
        found = json.loads(answer.read_text(encoding="utf-8"))["hosts"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        # If the doctor itself fails, only the hosts that do not answer ssh are left out.
        return silent_hosts(hosts)
    return {name: "; ".join(host["reasons"]) for name, host in found.items() if not host["healthy"]}


def _on_hosts(hosts: list[Host], script: str, seconds: float) -> str:
    """Run ``script`` on all hosts at once, and return its standard output, each line after ``NAME: ``."""
    environment = os.environ | {
        "PDSH_RCMD_TYPE": "ssh",
        "PDSH_SSH_ARGS_APPEND": f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} {ssh_options(0)}",
    }
    names = ",".join(host.name for host in hosts)
    command = ["pdsh", "-f", "1024", "-t", str(CONNECT_SECONDS), "-u", str(int(seconds)), "-w", names, script]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 10)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else (error.stdout or "")
    return done.stdout


def end_steps(job: str) -> None:
    """End all steps of a SLURM job on all its hosts, but not its batch script (which SIGKILL to the job would hit, too)."""
    query = ["squeue", "--steps", "--noheader", "--jobs", job, "--format", "%i"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    steps = [step for step in listed.stdout.split() if step.rpartition(".")[2].isdigit()]
    if steps:
        subprocess.run(["scancel", "--quiet", *steps], capture_output=True, timeout=60, check=False)
