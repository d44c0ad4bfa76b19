"""Two nodes that something else starts: two `deepspeed --no_ssh` on two addresses of the loopback. Needs no privileges."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launching import ROOT, cpu_environment, losses, processes_of
from shrinking import RECIPE

pytestmark = pytest.mark.launch


def test_two_launchers_train_as_one(two_processes: Path, shrunk: list[str], tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    run = tmp_path / "run"
    nodes = [
        subprocess.Popen(
            ["bash", str(ROOT / "launchers" / "node.sh"), str(rank), str(hosts), "distill", RECIPE, *shrunk, f"run.output={run}"],
            env=cpu_environment() | {"MVD_DS_JOB_ID": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=280)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(text[-2000:] for text in said)
    for name in ("loss/image", "loss/video"):
        assert losses(run, name) == losses(two_processes, name)
    for rank in (0, 1):
        assert (run / "launch" / f"node-{rank}" / "attempts.jsonl").exists()
    assert not processes_of(run)
