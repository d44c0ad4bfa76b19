"""Masters, moments and average among all ZeRO stages and precisions, to the bit, with five parameter groups.

Stages 0 to 3, ZeRO-1 by DeepSpeed's bf16 optimizer, ZeRO-3 in many flat tensors; fp32 and bf16, each into the other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from launching import script_ranks
from nightly_record import record

pytestmark = pytest.mark.launch
SCRIPT = Path(__file__).with_name("engine_states.py")


def states(processes: int, mode: str, folder: Path, overrides: list[str]) -> str:
    return script_ranks(processes, SCRIPT, mode, str(folder), *overrides, timeout=1200)


def test_two_processes_to_one(shrunk: list[str], tmp_path: Path) -> None:
    assert "compared 7" in states(2, "write", tmp_path, shrunk)
    assert "compared 21" in states(1, "read", tmp_path, shrunk)


@pytest.mark.nightly
@pytest.mark.parametrize("before", [1, 2, 4])
def test_every_number_of_processes_to_every_other(shrunk: list[str], tmp_path: Path, before: int) -> None:
    """Every layout to every other; DeepSpeed keeps padding in different places for each number."""
    states(before, "write", tmp_path, shrunk)
    for after in (1, 2, 4):
        assert "compared 49" in states(after, "read_all", tmp_path, shrunk)
    record("resume to the bit", f"{before} to 1, 2 and 4 processes", {"layouts": 7, "parameter_groups": 5, "compared": 3 * 49})
