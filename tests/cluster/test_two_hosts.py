"""`launchers/hostfile.sh` on two hosts with their own addresses: as one host, through a dead host, through a cut network."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from cluster.machines import Machine
from launching import ROOT, cpu_environment, losses
from shrinking import RECIPE

pytestmark = pytest.mark.launch
#: The shortest that engine.timeout_minutes can say.
TIMEOUT_SECONDS = 60


class Launch:
    """``launchers/hostfile.sh`` on the first host, and what it said."""

    def __init__(self, machine: Machine, hostfile: Path, log: Path, *arguments: str) -> None:
        command = ["bash", str(ROOT / "launchers" / "hostfile.sh"), str(hostfile), *arguments]
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                machine.command(command, ROOT), env=cpu_environment(), stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None and time.monotonic() < deadline, f"no '{text}' in {seconds} s\n{self.said[-4000:]}"
            time.sleep(0.2)


def processes_of(run: Path) -> list[str]:
    """Everything on this machine, in whatever namespace, that belongs to a launch of ``run``."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(f"run.output={run}" in argument for argument in command):
            found.append(" ".join(command)[:200])
    return found


def test_two_hosts_train_as_one(
    two_hosts: list[Machine], hostfile: Path, two_processes: Path, shrunk: list[str], tmp_path: Path
) -> None:
    # What shells, pdsh and DeepSpeed would each read in their own way.
    run = tmp_path / "a 'run' of 100%n $HOME"
    launch = Launch(two_hosts[0], hostfile, tmp_path / "log", "distill", RECIPE, *shrunk, f"run.output={run}")
    assert launch.process.wait(timeout=300) == 0, launch.said[-4000:]
    for name in ("loss/image", "loss/video"):
        assert losses(run, name) == losses(two_processes, name)
    attempt = json.loads((run / "launch" / "attempts.jsonl").read_text())
    assert attempt["hosts"] == ["mvd-a slots=1", "mvd-b slots=1"] and attempt["outcome"] == "finished"
    assert not processes_of(run)
