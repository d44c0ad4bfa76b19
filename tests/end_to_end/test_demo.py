"""The demo's own script, shortened to a few steps: in pieces, over two seeds, to one table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launching import ROOT, cpu_environment

DEMO = ROOT / "launchers" / "demo.sh"


def demo(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(["bash", str(DEMO), *arguments], env=cpu_environment(), capture_output=True, text=True, timeout=1500)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.nightly
def test_two_seeds_in_pieces_become_one_table(videos: Path, tmp_path: Path) -> None:
    short = ["schedule.steps=3", "schedule.warmup_steps=1", "run.log_every_steps=1", "run.picture_clips=1"]
    command = ["--output", str(tmp_path / "out"), "--videos", str(videos), "--seeds", "3 5", *short]
    code, said = demo(*command, "--minutes", "1")
    assert code == 75 and "the same command goes on" in said, said[-2000:]
    code, said = demo(*command)
    assert code == 0, said[-3000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trainings"] == 2 and len(report["probes"]) == 7 and len(report["comparisons"]) == 5
    both = tmp_path / "out" / "seed-5" / "student_both"
    assert "seed: 5" in (both / "recipe.yaml").read_text() and (both / "model" / "model.safetensors").exists()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("seed-*/*/model/model.safetensors")}
    assert len(made) == 12
    assert demo(*command)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    code, said = demo(*command, "run.picture_clips=2")
    assert code == 2 and "was begun with other videos or settings" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "one"], "--seeds 'one': give numbers"),
        (["--minutes", "soon"], "--minutes soon: give a number"),
        (["--videos", "/nowhere"], "--videos /nowhere: has no train.txt"),
        (["--seed", "1"], "unknown option --seed"),
        (["--world", "mars"], "--world mars: there are digits and doom"),
        (["--world", "doom", "schedule.steps=3"], "its protocol fixes seeds, videos and settings"),
    ],
)
def test_a_wrong_use_is_one_line(arguments: list[str], words: str) -> None:
    code, said = demo(*arguments)
    assert code == 2 and words in said and said.count("\n") == 1
