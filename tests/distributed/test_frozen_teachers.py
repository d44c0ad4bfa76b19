"""Sharded teachers after training: bit-identical, really sharded, fetched ahead of use, without gradients or optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching import launch_script

pytestmark = pytest.mark.launch


def test_sharded_teachers_are_frozen(shrunk: list[str]) -> None:
    script = Path(__file__).with_name("frozen_teachers.py")
    said = launch_script(2, script, *shrunk, "teachers.image.chunk_clips=1").stdout
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert found["same"] and found["exact"] and found["steps"] == 3
    assert found["sharded"] >= 2 * 3 * 3, "the matrices of every block of both teachers"
    assert (found["gradients"], found["optimizers"]) == (0, 0)
    # Seven forward passes, two blocks that have a next one. DeepSpeed learns the order of use first, and fetches ahead from the
    # third pass on at the latest. The image teacher sees its two clips one after the other.
    for name, passes in (("image", 2), ("video", 1)):
        ahead = found["ahead"][name]
        each = 2 * passes
        assert len(ahead) == 7 * each and not any(ahead[:each]) and all(ahead[2 * each :]), (name, ahead)
    assert found["linear_untouched"], "ZeRO-3 must not replace Linear in the whole process"
    assert found["needless"] == [], "seconds of every start, on every rank"
