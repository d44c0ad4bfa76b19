"""`launchers/hostfile.sh` on two hosts with their own addresses: as one host, through a dead host, through a cut network."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from cluster.machines import Machine
from launching import ROOT, cpu_environment, launch, losses, processes_of
from nightly_record import record
from shrinking import RECIPE

pytestmark = pytest.mark.launch
#: The shortest that engine.timeout_minutes can say.
TIMEOUT_SECONDS = 60
CUT_SECONDS = 25


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


def test_two_hosts_train_as_one(
    two_hosts: list[Machine], hostfile: Path, two_processes: Path, shrunk: list[str], tmp_path: Path
) -> None:
    # What shells, pdsh and DeepSpeed would each read in their own way.
    run = tmp_path / "a 'run' of 100%n $HOME"
    started = Launch(two_hosts[0], hostfile, tmp_path / "log", "distill", RECIPE, *shrunk, f"run.output={run}")
    assert started.process.wait(timeout=300) == 0, started.said[-4000:]
    for name in ("loss/image", "loss/video"):
        assert losses(run, name) == losses(two_processes, name)
    attempt = json.loads((run / "launch" / "attempts.jsonl").read_text())
    assert attempt["hosts"] == ["mvd-a slots=1", "mvd-b slots=1"] and attempt["outcome"] == "finished"
    assert not processes_of(run)


@pytest.fixture(scope="module")
def untouched(shrunk: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long run of the tests below on one host with two processes."""
    run = tmp_path_factory.mktemp("untouched") / "run"
    launch(2, "distill", RECIPE, *long(shrunk, run))
    return run


def long(shrunk: list[str], run: Path) -> list[str]:
    """A run that lasts until something has happened to it, and gives a silent host up after a minute."""
    return [*shrunk, "schedule.steps=60", "run.save_every_steps=10", "engine.timeout_minutes=1", f"run.output={run}"]


def begun(two_hosts: list[Machine], hostfile: Path, shrunk: list[str], folder: Path, *options: str) -> tuple[Launch, Path]:
    """A long run on both hosts, after its first checkpoint."""
    run = folder / "run"
    started = Launch(two_hosts[0], hostfile, folder / "log", *options, "distill", RECIPE, *long(shrunk, run))
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "latest").exists():
        assert started.process.poll() is None and time.monotonic() < deadline, started.said[-4000:]
        time.sleep(0.1)
    return started, run


@pytest.mark.nightly
def test_a_dead_host_is_left_out_and_the_run_is_finished(
    two_hosts: list[Machine], hostfile: Path, untouched: Path, shrunk: list[str], tmp_path: Path
) -> None:
    started, run = begun(two_hosts, hostfile, shrunk, tmp_path, "--backoff-seconds", "1")
    began = time.monotonic()
    two_hosts[1].cut_power()
    started.wait_for("attempt 1 failed", TIMEOUT_SECONDS + 60)
    noticed = time.monotonic() - began
    assert started.process.wait(timeout=300) == 0, started.said[-4000:]
    assert "left out: mvd-b" in started.said and "attempt 2 on mvd-a" in started.said
    for name in ("loss/image", "loss/video"):
        assert losses(run, name) == pytest.approx(losses(untouched, name), rel=1e-4)
    assert not processes_of(run)
    seconds = {"ended_after_seconds": round(noticed, 1), "finished_after_seconds": round(time.monotonic() - began, 1)}
    record("two hosts", "a host loses its power", {"timeout_seconds": TIMEOUT_SECONDS, **seconds})


@pytest.mark.nightly
def test_a_network_cut_for_less_than_the_timeout_changes_nothing(
    two_hosts: list[Machine], hostfile: Path, untouched: Path, shrunk: list[str], tmp_path: Path
) -> None:
    started, run = begun(two_hosts, hostfile, shrunk, tmp_path, "--restarts", "0")
    two_hosts[1].switch.plug(2, "down")
    time.sleep(CUT_SECONDS)
    before = (run / "checkpoints" / "latest").read_text()
    two_hosts[1].switch.plug(2, "up")
    assert started.process.wait(timeout=300) == 0, started.said[-4000:]
    assert before != (run / "checkpoints" / "latest").read_text(), "the cut came before the end"
    for name in ("loss/image", "loss/video"):
        assert losses(run, name) == losses(untouched, name)
    record("two hosts", "the network is cut for less", {"timeout_seconds": TIMEOUT_SECONDS, "cut_seconds": CUT_SECONDS})


@pytest.mark.nightly
def test_a_network_cut_for_longer_ends_all_hosts(
    two_hosts: list[Machine], hostfile: Path, shrunk: list[str], tmp_path: Path
) -> None:
    started, run = begun(two_hosts, hostfile, shrunk, tmp_path, "--restarts", "0")
    began = time.monotonic()
    two_hosts[1].switch.plug(2, "down")
    assert started.process.wait(timeout=TIMEOUT_SECONDS + 60) == 1, started.said[-4000:]
    first = time.monotonic() - began
    while (left := processes_of(run)) and time.monotonic() - began < TIMEOUT_SECONDS + 60:
        time.sleep(0.2)
    assert not left, "the host that nobody can reach has ended by itself"
    both = time.monotonic() - began
    seconds = {"first_host_seconds": round(first, 1), "both_hosts_seconds": round(both, 1)}
    record("two hosts", "the network is cut for longer", {"timeout_seconds": TIMEOUT_SECONDS, **seconds})
