"""Every signal to every process of a launch: what happens stands in launchers/README.md, and nothing is left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launching import ROOT, cpu_environment, losses
from mvd_ds.tools.launch import processes
from nightly_record import record
from shrinking import RECIPE

pytestmark = pytest.mark.launch
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGKILL")
TARGETS = ("script", "runner", "launcher", "rank")
#: What a cell of the table says, and the exit code of the script with --restarts 0.
CELLS = {"saves, 75": 75, "saves, restarts": 1, "restarts": 1, "all end": -signal.SIGKILL}
END_SECONDS = 60.0


def documented() -> dict[tuple[str, str], str]:
    """The table of launchers/README.md: cell by (target, signal)."""
    cells = {}
    for line in (ROOT / "launchers" / "README.md").read_text().splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        target = row[0].strip("`")
        if target in TARGETS and len(row) == 2 + len(SIGNALS) and target != row[0]:
            cells |= {(target, name): cell for name, cell in zip(SIGNALS, row[2:], strict=True)}
    return cells


class Launch:
    """``launchers/train.sh`` on two processes, for longer than a test takes."""

    def __init__(self, run: Path, shrunk: list[str], *options: str, every: int = 3) -> None:
        self.run = run
        more = ["schedule.steps=4000", f"run.save_every_steps={every}", f"run.output={run}"]
        command = ["bash", str(ROOT / "launchers" / "train.sh"), "--processes", "2", *options, "distill", RECIPE, *shrunk, *more]
        self.log = run.with_suffix(".log")
        with open(self.log, "wb") as file:
            self.script = subprocess.Popen(command, env=cpu_environment(), stdout=file, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_checkpoint_after(self, step: int, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while self.saved <= step:
            assert self.script.poll() is None and time.monotonic() < deadline, self.said[-4000:]
            time.sleep(0.1)

    @property
    def saved(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        latest = self.run / "checkpoints" / "latest"
        return int(latest.read_text().rpartition("-")[2]) if latest.exists() else 0

    def target(self, name: str) -> psutil.Process:
        """The script, the ``deepspeed`` runner, its launch.py, or rank 1."""
        script = psutil.Process(self.script.pid)
        if name == "script":
            return script
        signs = {"runner": r"/deepspeed ", "launcher": r"-m deepspeed\.launcher\.launch ", "rank": r"-m mvd_ds --local_rank=1 "}
        found = [child for child in script.children(recursive=True) if re.search(signs[name], " ".join(child.cmdline()))]
        assert len(found) >= 1, name
        return found[0]

    @property
    def mark(self) -> str:
        return self.target("launcher").environ()[processes.MARK]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run's folder; whatever still works there at the end is ended."""
    yield tmp_path / "run"
    for process in psutil.process_iter():
        try:
            if any(f"run.output={tmp_path}" in word for word in process.cmdline()):
                process.kill()
        except psutil.Error:
            continue


def test_the_table_is_whole() -> None:
    assert set(documented()) == {(target, name) for target in TARGETS for name in SIGNALS}
    assert set(documented().values()) == set(CELLS)


def test_a_killed_launcher_starts_again_and_a_signal_saves(run: Path, shrunk: list[str]) -> None:
    launch = Launch(run, shrunk, "--backoff-seconds", "0")
    launch.wait_for_checkpoint_after(2)
    mark = launch.mark
    launch.target("launcher").kill()
    deadline = time.monotonic() + 200
    while "resuming from the checkpoint of step" not in launch.said:
        assert launch.script.poll() is None and time.monotonic() < deadline, launch.said[-3000:]
        time.sleep(0.1)
    launch.script.send_signal(signal.SIGUSR1)
    assert launch.script.wait(timeout=END_SECONDS) == 75, launch.said[-3000:]
    assert processes.marked(mark) == []
    assert "asked all ranks to save and end" in launch.said
    assert len(losses(run)) == launch.saved, "every step once, and none after the checkpoint"


@pytest.mark.nightly
def test_a_file_stops_a_run_whose_first_step_its_time_limit_has_saved(run: Path, shrunk: list[str]) -> None:
    """A day's limit: how long a save takes is known from the first step on, though the next is due at the end."""
    launch = Launch(run, [*shrunk, "run.stop_before_seconds=86400"], every=4000)
    launch.wait_for_checkpoint_after(0)
    assert launch.saved == 1
    (run / "control" / "stop").touch()
    assert launch.script.wait(timeout=END_SECONDS) == 75, launch.said[-3000:]
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "preempted" and status["step"] == launch.saved == len(losses(run)) > 1
    assert status["reason"] == f"{run}/control/stop is there" and not (run / "control" / "stop").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_signal_does_what_the_table_says(target: str, name: str, run: Path, shrunk: list[str]) -> None:
    launch = Launch(run, shrunk, "--restarts", "0")
    launch.wait_for_checkpoint_after(2)
    mark, cell = launch.mark, documented()[target, name]
    launch.target(target).send_signal(getattr(signal, name))
    began = time.monotonic()
    code = launch.script.wait(timeout=END_SECONDS)
    left = processes.wait_until_gone(mark, END_SECONDS)
    seconds = time.monotonic() - began
    assert not left, launch.said[-3000:]
    assert code == CELLS[cell], launch.said[-3000:]
    status = json.loads((run / "status.json").read_text())
    if cell.startswith("saves"):
        assert status["state"] == "preempted" and status["step"] == launch.saved, "no step is lost"
    record("signals", f"{name} to {target}", {"does": cell, "exit_code": code, "seconds": round(seconds, 1)})
