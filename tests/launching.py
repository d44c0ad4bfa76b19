"""Start the product as a user does: through the deepspeed launcher, or without it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def launch(processes: int, *arguments: str, timeout: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``deepspeed --num_accelerators PROCESSES --module mvd_ds ARGUMENTS`` on the CPU."""
    return _run([*_launcher(processes), "--module", "mvd_ds", *arguments], timeout, check)


def launch_script(processes: int, script: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A script of the tests under the launcher."""
    return _run([*_launcher(processes), str(script), *arguments], timeout, check=True)


def _launcher(processes: int) -> list[str]:
    launcher = Path(sys.executable).with_name("deepspeed")
    return [str(launcher), "--log_level", "critical", "--num_accelerators", str(processes), "--master_port", _free_port()]


def _free_port() -> str:
    return str(random.SystemRandom().randrange(20000, 60000))


def ranks(processes: int, *arguments: str, timeout: float = 600) -> str:
    """``python -m mvd_ds ARGUMENTS`` in as many ranks, started as torchrun starts them; returns all that they said.

    For what is asked of the numbers and not of the launcher, whose two processes load torch one after the other, before
    any rank does (6 s).
    """
    return _ranks(processes, ["-m", "mvd_ds", *arguments], timeout)


def script_ranks(processes: int, script: Path, *arguments: str, timeout: float = 600) -> str:
    """A script of the tests, as ``ranks``."""
    return _ranks(processes, [str(script), *arguments], timeout)


def _ranks(processes: int, arguments: list[str], timeout: float) -> str:
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile("w+") as log:
        started = [
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=cpu_environment() | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=log,
                stderr=log,
            )
            for rank in range(processes)
        ]
        try:
            codes = [rank.wait(timeout=max(deadline - time.monotonic(), 0)) for rank in started]
        finally:
            for rank in started:
                rank.kill()
        log.seek(0)
        said = log.read()
    assert not any(codes), f"exit codes {codes} of {' '.join(arguments)}\n{said[-6000:]}"
    return said


def alone(*arguments: str, timeout: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``python -m mvd_ds ARGUMENTS``."""
    return _run([sys.executable, "-m", "mvd_ds", *arguments], timeout, check)


def cpu_environment() -> dict[str, str]:
    """Environment in which a launch takes the CPU, one thread for each process, and says little."""
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        # The environment that runs the tests, which launchers/*.sh would look for in .venv.
        "MVD_DS_VENV": sys.prefix,
    }
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        environment.pop(name, None)
    return environment


def alone_script(script: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A script of the tests as one process, without the launcher."""
    return _run([sys.executable, str(script), *arguments], timeout, check=True)


def _run(command: list[str], timeout: float, check: bool) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, env=cpu_environment(), capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"exit code {done.returncode} of {' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def metrics(run: Path) -> list[dict[str, float]]:
    """The steps of a run's metrics.jsonl; what a save took stands in a line of its own, and no metric of a step twice."""
    steps: dict[int, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        known = steps.setdefault(values["step"], {"step": values["step"]})
        assert known.keys() & values.keys() == {"step"}, f"twice in {run}: {line}"
        known |= values
    return list(steps.values())


def losses(run: Path, name: str = "loss/total") -> list[float]:
    """One loss by step; every step from 1 on is there, once."""
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line[name] for line in lines]


def processes_of(run: Path) -> list[str]:
    """Everything on this machine, in whatever namespace, that belongs to a launch of ``run``."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(f"run.output={run}" in argument for argument in command) and process.pid != os.getpid():
            found.append(" ".join(command)[:200])
    return found
