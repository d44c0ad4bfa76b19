"""Deaths, hangs and launchers that go away, seen by processes that do nothing but be watched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvd_ds.training.liveness.heartbeat import read_beats
from mvd_ds.training.run_folder import FAILED, PREEMPTED, RunFolder

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "watched_rank.py"


class Ranks:
    """Some ranks, as children of this process."""

    def __init__(self, folder: Path, *does: str) -> None:
        self.folder = RunFolder(folder)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("RANK", None)
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), str(rank), str(len(does)), what],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, what in enumerate(does)
        ]

    def wait_for_step(self, step: int) -> None:
        while [beat.step >= step for beat in read_beats(self.folder)] != [True] * len(self.processes):
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.05)

    def ends(self, seconds: float) -> tuple[list[int], list[str]]:
        """Exit codes, and the lines of all."""
        began = time.monotonic()
        said = [process.communicate(timeout=seconds)[1] for process in self.processes]
        assert time.monotonic() - began < seconds
        return [process.returncode for process in self.processes], [line for text in said for line in text.splitlines()]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[list[Ranks]]:
    made: list[Ranks] = []
    yield made
    for group in made:
        group.close()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others_and_one_says_who_died(victim: int, tmp_path: Path, ranks: list[Ranks]) -> None:
    group = Ranks(tmp_path, "works", "works", "works")
    ranks.append(group)
    group.wait_for_step(5)
    group.processes[victim].kill()
    codes, lines = group.ends(60)
    assert codes == [-9 if rank == victim else FAILED for rank in range(3)]
    assert len(lines) == 1 and f"rank {victim} (process {group.processes[victim].pid} on" in lines[0], lines
    assert "died, last seen computing in step" in lines[0] and "goes on from the last checkpoint" in lines[0]


def test_a_hang_is_ended_the_laggard_named_and_all_stacks_written(tmp_path: Path, ranks: list[Ranks]) -> None:
    group = Ranks(tmp_path, "works", "works", "hangs")
    ranks.append(group)
    codes, lines = group.ends(60)
    assert codes == [FAILED] * 3
    assert len(lines) == 1 and "rank 2 (process" in lines[0] and "is behind, computing in step 10" in lines[0], lines
    for rank in range(3):
        stack = (group.folder.logs(1) / f"rank-{rank}.stack").read_text()
        assert "hang in step" in stack and "watched_rank.py" in stack and "in main" in stack


def test_a_stopped_rank_is_the_laggard_too(tmp_path: Path, ranks: list[Ranks]) -> None:
    """It can write no stack; the others see that it begins nothing. They hang, as they would in a collective."""
    group = Ranks(tmp_path, "hangs", "works")
    ranks.append(group)
    group.wait_for_step(3)
    group.processes[1].send_signal(signal.SIGSTOP)
    assert group.processes[0].wait(30) == FAILED
    said = group.processes[0].stderr.read()  # type: ignore[union-attr]
    assert "is behind" in said and "stacks are in" in said


def test_stacks_are_written_on_demand_and_the_rank_goes_on(tmp_path: Path, ranks: list[Ranks]) -> None:
    group = Ranks(tmp_path, "works")
    ranks.append(group)
    group.wait_for_step(2)
    group.processes[0].send_signal(signal.SIGUSR2)
    stack = group.folder.logs(1) / "rank-0.stack"
    while "in main" not in stack.read_text():
        time.sleep(0.05)
    group.wait_for_step(read_beats(group.folder)[0].step + 5)
    assert group.processes[0].poll() is None


LAUNCHER = "import os, subprocess, sys; os.environ['RANK'] = '0'; subprocess.run([sys.executable, *sys.argv[1:]])"


@pytest.mark.parametrize(
    ("does", "words"), [("obeys", "asked to stop: the launcher (process"), ("works", "took longer than 2 s")]
)
def test_ranks_do_not_outlive_their_launcher(does: str, words: str, tmp_path: Path) -> None:
    """They are asked to stop, and ended where that takes too long."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(SCRIPT), str(tmp_path), "0", "1", does],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (beats := read_beats(RunFolder(tmp_path))) or beats[0].step < 3:
        time.sleep(0.05)
    launcher.kill()
    said = launcher.communicate(timeout=60)[1]  # ends when the rank, which holds the other end, has ended
    assert "the launcher (process" in said and words in said
    began = time.monotonic()
    while beats[0].process.is_alive():
        assert time.monotonic() - began < 60


def test_a_request_to_stop_is_obeyed_and_a_second_interrupt_ends_at_once(tmp_path: Path, ranks: list[Ranks]) -> None:
    group = Ranks(tmp_path / "obeys", "obeys")
    ranks.append(group)
    group.wait_for_step(2)
    group.processes[0].send_signal(signal.SIGUSR1)
    codes, lines = group.ends(60)
    assert codes == [PREEMPTED] and lines == ["asked to stop: signal SIGUSR1"]
    stubborn = Ranks(tmp_path / "works", "works")
    ranks.append(stubborn)
    stubborn.wait_for_step(2)
    stubborn.processes[0].send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert stubborn.processes[0].poll() is None
    stubborn.processes[0].send_signal(signal.SIGINT)
    codes, lines = stubborn.ends(60)
    assert codes == [-signal.SIGINT] and "KeyboardInterrupt" in lines


def test_a_rank_whose_command_died_before_it_could_look_is_asked_to_stop(tmp_path: Path) -> None:
    """deepspeed's launcher is then a child of the first process, as is here what stands for it."""
    (tmp_path / "deepspeed" / "launcher").mkdir(parents=True)
    (tmp_path / "deepspeed" / "launcher" / "launch.py").write_text(LAUNCHER)
    for folder in ("deepspeed", "deepspeed/launcher"):
        (tmp_path / folder / "__init__.py").touch()
    command = [sys.executable, "-m", "deepspeed.launcher.launch", str(SCRIPT), str(tmp_path / "run"), "0", "1", "obeys"]
    starter = f"import subprocess; subprocess.Popen({command!r}, cwd={str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", starter], env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, check=True)
    began = time.monotonic()
    while not (beats := read_beats(RunFolder(tmp_path / "run"))) or beats[0].process.is_alive():
        assert time.monotonic() - began < 60
        time.sleep(0.05)
