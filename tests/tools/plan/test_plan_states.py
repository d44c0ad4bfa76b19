"""The plan's bytes of states are those that DeepSpeed holds, on one process and on two."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from launching import ROOT

#: Bytes beside the states: step counters, flags, an empty tensor a parameter (0.02 % of the smallest case).
SCALARS = 1024


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_planned_states_are_those_that_the_engine_holds(processes: int) -> None:
    """Without the launcher: its environment by hand takes half the time."""
    port = str(random.SystemRandom().randrange(20000, 32000))
    group = []
    for rank in range(processes):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        }
        script = str(Path(__file__).with_name("state_bytes.py"))
        group.append(subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=200)[0] for process in group]
    assert all(process.returncode == 0 for process in group)
    for row in json.loads(next(line for line in said[0].splitlines() if line.startswith("["))):
        difference = row["measured"] - row["planned"]
        assert 0 <= difference <= SCALARS, row
        assert row["planned"] > 9 * row["parameters"] / processes
