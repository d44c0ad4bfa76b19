"""Who is above a rank, and who had died before the rank could look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Starts a rank and ends before that looks; or stays until it has.
LAUNCHER = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
if sys.argv[1] == "stays":
    rank.wait()
"""
RANK = """
import os, time
parent, ends = os.getppid(), time.monotonic() + 20
while {waits} and os.getppid() == parent and time.monotonic() < ends:
    time.sleep(0.01)
from mvd_ds.training.launcher import Launcher
print(Launcher().dead(), flush=True)
"""


def dead(tmp_path: Path, module: str, launcher: str, **environment: str) -> str:
    """What a rank under ``python -m module`` says of it."""
    path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(LAUNCHER)
    command = [sys.executable, "-m", module, launcher, RANK.format(waits=launcher == "ends")]
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "CROSS_SIZE")}
    paths = f"{tmp_path}:{Path(__file__).resolve().parents[2]}"
    done = subprocess.run(
        command, cwd=tmp_path, env={**clean, "PYTHONPATH": paths, **environment}, stdout=subprocess.PIPE, text=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("launcher", "environment", "expected"),
    [
        ("ends", {"RANK": "0", "CROSS_SIZE": "1"}, "the launcher"),
        ("ends", {"RANK": "0"}, "None"),  # a shell may end long before what it has started
        ("ends", {}, "None"),
        ("stays", {"RANK": "0"}, "None"),
    ],
)
def test_a_launcher_that_died_before_the_rank_looked(
    tmp_path: Path, launcher: str, environment: dict[str, str], expected: str
) -> None:
    assert dead(tmp_path, "some.shell", launcher, **environment) == expected
