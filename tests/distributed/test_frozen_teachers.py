"""Sharded teachers after training: bit-identical, really sharded, without gradients or optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching import launch_script

pytestmark = pytest.mark.launch


def test_sharded_teachers_are_frozen(shrunk: list[str]) -> None:
    script = Path(__file__).with_name("frozen_teachers.py")
    said = launch_script(2, script, *shrunk).stdout
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert found["same"] and found["steps"] == 3
    assert found["sharded"] >= 2 * 3 * 3, "the matrices of every block of both teachers"
    assert (found["gradients"], found["optimizers"]) == (0, 0)
    assert found["linear_untouched"], "ZeRO-3 must not replace Linear in the whole process"
    assert found["needless"] == [], "seconds of every start, on every rank"
