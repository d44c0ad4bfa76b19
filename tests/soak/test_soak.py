"""The soak as a nightly test; where it was broken off, it goes on: ``MVD_DS_SOAK_FOLDER`` keeps its state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.nightly
@pytest.mark.launch
def test_a_hundred_kills(tmp_path: Path) -> None:
    folder = os.environ.get("MVD_DS_SOAK_FOLDER", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "soak.hundred_kills", folder], cwd=ROOT, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
