"""The numbers do not depend on how a run is laid out: processes, accumulation, ZeRO stage, placement, interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launching import alone, launch, losses, ranks
from mvd_ds.runs.student import build_predictor
from shrinking import RECIPE, STEPS, shipped

pytestmark = pytest.mark.launch


@pytest.mark.parametrize(
    ("processes", "overrides"),
    [
        (2, ["batch.micro=1"]),
        (1, ["batch.micro=4"]),
        (2, ["engine.config=zero2.json", "teachers.image.placement=replicated", "teachers.video.placement=zero3_offload"]),
        (2, ["engine.config=zero1.json", "batch.micro=4", "teachers.image.chunk_clips=1", "data.workers=1"]),
    ],
    ids=[
        "more accumulation",
        "one process",
        "zero2, replicated and offloaded teachers",
        "zero1, no accumulation, teachers in chunks",
    ],
)
def test_same_losses_in_another_layout(
    processes: int, overrides: list[str], run: Path, shrunk: list[str], tmp_path: Path
) -> None:
    ranks(processes, "distill", RECIPE, *shrunk, *overrides, f"run.output={tmp_path}")
    for name in ("loss/image", "loss/video"):
        assert losses(tmp_path, name) == pytest.approx(losses(run, name), rel=1e-4)


def test_stopped_and_resumed_equals_untouched(run: Path, shrunk: list[str], tmp_path: Path) -> None:
    command = ["distill", RECIPE, *shrunk, f"run.output={tmp_path}", "run.save_every_steps=4", "run.keep_every_steps=8"]
    launch(2, *command, "run.stop_after_steps=14")
    # As after a crash: a half-written checkpoint, and metrics of steps that no checkpoint holds.
    (tmp_path / "checkpoints" / "writing-step-00000016").mkdir()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 15, "loss/total": 1.0}\n{"step": 16, "loss/tot')
    said = launch(2, *command).stdout
    assert "resuming from the checkpoint of step 14" in said
    assert losses(tmp_path) == losses(run), "every step once, equal to the last bit"
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*step-*")}
    assert kept == {"step-00000008", "step-00000016", "step-00000020"}
    exported, untouched = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, run))
    assert exported.keys() == untouched.keys()
    assert all((exported[name] == untouched[name]).all() for name in exported)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss/total")] == list(range(1, STEPS + 1))
    assert "is finished" in launch(2, *command).stdout


def test_resume_refuses_what_cannot_be_exact(run: Path, shrunk: list[str]) -> None:
    """No launch of the engine is needed to see that the newest checkpoint does not fit these settings."""
    refused = alone("distill", RECIPE, *shrunk, f"run.output={run}", "masking.ratio=0.8", check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "cannot be resumed, these differ: masking.ratio: 0.9 -> 0.8; set them back" in refused.stderr, refused.stderr


@pytest.mark.parametrize("build", ["whole", pytest.param("streamed", marks=pytest.mark.nightly)])
def test_bf16_starts_from_exact_masters_and_follows_fp32(build: str, run: Path, shrunk: list[str], tmp_path: Path) -> None:
    """The first step of the warm-up has a learning rate of 0: the exported masters are the initial fp32 weights."""
    settings = ["engine.precision=bf16", f"engine.build={build}", "teachers.image.placement=zero3_node", "run.stop_after_steps=1"]
    ranks(2, "distill", RECIPE, *shrunk, *settings, f"run.output={tmp_path}")
    exported = load_file(tmp_path / "model" / "model.safetensors")
    for name, parameter in build_predictor(shipped(shrunk)).named_parameters():
        assert (exported[name] == parameter).all(), name
    assert losses(tmp_path)[0] == pytest.approx(losses(run)[0], rel=1e-2)
