"""`launchers/ranks.sh` under torchrun: every rank started by another launcher than deepspeed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launching import ROOT, cpu_environment, losses
from shrinking import RECIPE

pytestmark = [pytest.mark.launch, pytest.mark.nightly]


def test_torchrun_trains_as_deepspeed_does(two_processes: Path, shrunk: list[str], tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2", "--no-python"]
    ranks = ["bash", str(ROOT / "launchers" / "ranks.sh"), "distill", RECIPE, *shrunk, f"run.output={tmp_path / 'run'}"]
    done = subprocess.run([*torchrun, *ranks], env=cpu_environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert losses(tmp_path / "run") == losses(two_processes)
