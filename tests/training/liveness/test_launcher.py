"""A rank finds the launcher above it, and notices one that had died before it could look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: Starts a rank and ends before that looks; or stays until it has.
LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
if sys.argv[1] == "stays":
    rank.wait()
"""
RANK = """
import os, time
parent, ends = os.getppid(), time.monotonic() + 20
while {waits} and os.getppid() == parent and time.monotonic() < ends:
    time.sleep(0.01)
from mvd_ds.training.liveness.launcher import Launcher
print(Launcher().dead(), flush=True)
"""


@pytest.mark.parametrize(
    ("launcher", "environment", "expected"),
    [
        ("ends", {"RANK": "0", "CROSS_SIZE": "1"}, "the launcher"),
        ("ends", {"RANK": "0"}, "None"),  # a shell may end long before what it has started
        ("ends", {}, "None"),
        ("stays", {"RANK": "0"}, "None"),
    ],
)
def test_a_launcher_that_died_before_the_rank_looked(launcher: str, environment: dict[str, str], expected: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "CROSS_SIZE")}
    command = [sys.executable, "-c", LAUNCHER, launcher, RANK.format(waits=launcher == "ends")]
    done = subprocess.run(command, cwd=ROOT, env={**clean, **environment}, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout.strip() == expected
