"""A loss that is not a number on one rank of the real engine: no rank takes the step, and all other steps are as they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from distributed.bad_clip import VIDEO, ruined
from launching import alone, launch_script, metrics
from mvd_ds.cli import main
from mvd_ds.config import TrainingRecipe
from mvd_ds.files import read_json
from mvd_ds.training.checkpoint.files import read_checkpoint_manifest
from mvd_ds.training.masked_prediction import MaskedPrediction
from plain_loop import plain_losses
from shrinking import RECIPE

pytestmark = pytest.mark.launch
SCRIPT = Path(__file__).with_name("bad_clip.py")


def test_one_rank_spoils_a_step_for_all(
    shrunk: list[str],
    shrunk_recipe: TrainingRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two processes under ZeRO-3, two micro batches a step; held against a plain loop that leaves those steps out.

    The trainer looks at most steps only after the next one has been computed, which it then has to compute again.
    """
    run, every = tmp_path / "run", 3
    settings = [*shrunk, "run.stop_after_steps=12", f"run.log_every_steps={every}", f"run.output={run}"]
    said = launch_script(2, SCRIPT, "distill", RECIPE, *settings).stderr
    lines = metrics(run)
    expected = plain_losses(shrunk_recipe, without=VIDEO)["total"][:12]
    skipped = [step for step, loss in enumerate(expected, 1) if loss != loss]
    assert 1 <= len(skipped) <= 2, "the video comes once an epoch of eight steps"
    assert any(step % every for step in skipped), "one is seen late"
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert lines[-1]["optim/skipped_steps"] == len(skipped)
    latest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    assert read_checkpoint_manifest(latest)["skipped"] == len(skipped)
    for line in lines:
        last = int(line["step"])
        taken = [loss for loss in expected[last - every : last] if loss == loss]
        assert line["loss/total"] == pytest.approx(sum(taken) / len(taken), rel=1e-4), last
    told = [line for line in said.splitlines() if "is not finite" in line]
    assert len(told) == len(skipped) and all("skipped on all ranks" in line for line in told), said
    assert all(len(re.findall(r"loss total of rank \d is not finite \(first gradient of ", line)) == 1 for line in told), told
    dump = re.search(rf"^mvd_ds: step {skipped[0]}: .*python -m mvd_ds replay (\S+);", told[0])
    assert dump is not None, told[0]
    monkeypatch.setattr(MaskedPrediction, "__call__", ruined)
    assert main(["replay", dump[1]]) == 0
    replayed = capsys.readouterr().out
    assert replayed.count(": the same") == 4 and replayed.count("not finite") == 1
    assert re.search(r"^  clips: \S+\.mp4$", replayed, re.MULTILINE), "the one clip, of the two in its micro batch"


def test_a_teacher_that_overflows_is_named_and_its_run_has_not_finished(shrunk: list[str], tmp_path: Path) -> None:
    teacher = tmp_path / "video"
    shutil.copytree(next(Path(item.partition("=")[2]) for item in shrunk if item.startswith("teachers.video.weights=")), teacher)
    weights, file = load_file(teacher / "model.safetensors"), teacher / "model.safetensors"
    with safe_open(file, "pt") as opened:
        described = opened.metadata()
    save_file({name: value * 1e30 for name, value in weights.items()}, file, described)
    settings = [*shrunk, f"teachers.video.weights={teacher}", "schedule.steps=2", f"run.output={tmp_path / 'run'}"]
    done = alone("distill", RECIPE, *settings, check=False)
    assert done.returncode == 2
    assert "loss video of rank 0 is not finite (first targets of video" in done.stderr
    assert "none of 2 steps was applied" in done.stderr and "Traceback" not in done.stderr
    status = read_json(tmp_path / "run" / "status.json")
    assert status["state"] == "failed" and not (tmp_path / "run" / "model").exists()
    again = alone("distill", RECIPE, *settings, check=False)
    assert again.returncode == 2 and "none of 2 steps was applied" in again.stderr
