"""Two students on two ranks, ZeRO-3, that read a cache of targets, killed in the middle of the second one's save.

What comes out is the run of one student alone that asks its teachers and that nobody touched, bit by bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from launching import script_ranks
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.training.checkpoint.files import newest_first
from shrinking import RECIPE, shipped
from soak.kills import Life, trace

pytestmark = pytest.mark.launch

#: The first is deeper than the recipe's own network, which is the second.
STUDENTS = ["students.deep.model.depth=4", "students.own={}"]
#: Three epochs of two steps, so that every crop is shown; the kill comes in the second one.
SHORT = ["schedule.steps=6", "calibration_clips=8", "optimizer.ema_decay=0.9", "targets.crops=2", "data.clip.flip=0.5"]
#: 16 clips in four files, of which each rank makes two.
STORED = ["targets.store=fp32", "targets.clips_per_file=5"]
#: Fills caches and trains, one after another in the same processes.
SCRIPT = Path(__file__).parents[1] / "runs" / "several_runs.py"


def require_equal_files(cache: Path, other: Path) -> None:
    files = [cache / "index.json", *cache.glob("targets-*")]
    assert len(files) == 1 + 2 * 4, "each file of targets has one beside it that says what it holds"
    assert [file.name for file in files if file.read_bytes() != (other / file.name).read_bytes()] == []


def test_two_students_of_a_cache_killed_in_a_save_end_as_each_alone(shrunk: list[str], videos: Path, tmp_path: Path) -> None:
    untouched, folder = tmp_path / "untouched", tmp_path / "run"
    live = [*shrunk, *SHORT, f"data.manifest={videos / 'val.txt'}"]
    kept, alone = ([*live, *STORED, f"targets.cache={tmp_path / name}"] for name in ("cache", "of one rank"))
    runs = {"untouched": [*live, f"run.output={untouched}"]}
    script_ranks(2, SCRIPT, json.dumps(runs), json.dumps({"untouched": kept}))
    cache_targets(shipped(alone), RECIPE)
    require_equal_files(tmp_path / "cache", tmp_path / "of one rank")
    deep, own = folder / "deep" / "checkpoints", folder / "own" / "checkpoints"
    arguments = ["distill", RECIPE, *kept, *STUDENTS, "run.save_every_steps=3"]
    with Life(folder, 2, arguments) as life:
        cut_off = life.wait_until(lambda: newest_first(deep) and any(own.glob("writing-*")), "the save of the second student")
        members = [process for process in life.members() if process.is_running()]
        for process in members:
            process.kill()
        psutil.wait_procs(members)
    assert cut_off and newest_first(deep) and not newest_first(own), "killed between the two saves"
    with Life(folder, 2, arguments) as life:
        assert life.finish() == 0, life.said()
    assert "student deep: resuming from the checkpoint of step 3" in life.said()
    assert "teacher image: not loaded, what it gave is read from" in life.said()
    assert len(trace(untouched)) == 6 and trace(folder / "own") == trace(untouched)
    for file in ("model.safetensors", "ema.safetensors"):
        weights, expected = load_file(folder / "own" / "model" / file), load_file(untouched / "model" / file)
        assert weights.keys() == expected.keys() and all((weights[name] == expected[name]).all() for name in weights)
