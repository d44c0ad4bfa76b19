"""Two students on two ranks, ZeRO-3, killed in the middle of the second one's save: the run that nobody touched, bit by bit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from mvd_ds.training.checkpoint.files import newest_first
from shrinking import RECIPE
from soak.kills import Life, trace

pytestmark = pytest.mark.launch

#: The first is deeper than the recipe's own network, which is the second.
STUDENTS = ["students.deep.model.depth=4", "students.own={}"]


def test_two_students_killed_in_a_save_end_as_each_alone(two_processes: Path, shrunk: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    deep, own = folder / "deep" / "checkpoints", folder / "own" / "checkpoints"
    arguments = ["distill", RECIPE, *shrunk, *STUDENTS, "optimizer.ema_decay=0.9", "run.save_every_steps=4"]
    with Life(folder, 2, arguments) as life:
        cut_off = life.wait_until(lambda: newest_first(deep) and any(own.glob("writing-*")), "the save of the second student")
        members = [process for process in life.members() if process.is_running()]
        for process in members:
            process.kill()
        psutil.wait_procs(members)
    assert cut_off and newest_first(deep) and not newest_first(own), "killed between the two saves"
    with Life(folder, 2, arguments) as life:
        assert life.finish() == 0, life.said()
    assert "student deep: resuming from the checkpoint of step 4" in life.said()
    assert trace(folder / "own") == trace(two_processes)
    for file in ("model.safetensors", "ema.safetensors"):
        weights, expected = load_file(folder / "own" / "model" / file), load_file(two_processes / "model" / file)
        assert weights.keys() == expected.keys() and all((weights[name] == expected[name]).all() for name in weights)
