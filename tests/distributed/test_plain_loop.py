"""A shipped recipe under ZeRO-3 in two processes equals a plain PyTorch loop in one, loss by loss."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from launching import losses, metrics, ranks
from mvd_ds.config import TrainingRecipe, differences, dump, load_recipe
from mvd_ds.runs.student import build_predictor
from shrinking import RECIPE, shipped

pytestmark = pytest.mark.launch


def test_only_sizes_are_shrunk(shrunk: list[str]) -> None:
    changed = differences(dump(load_recipe(RECIPE)), dump(shipped(shrunk)))
    print("\n".join(changed))
    kept = (
        "masking.",
        "model.drop_path",
        "model.activation",
        "decoder.drop_path",
        "optimizer.betas",
        "optimizer.weight",
        "engine.config",
    )
    assert not [line for line in changed if line.startswith(kept) or ".loss" in line or ".placement" in line or ".target" in line]


def test_zero3_with_sharded_teachers_equals_plain_loop(run: Path, plain: dict[str, list[float]]) -> None:
    assert plain["total"][-1] < 0.8 * plain["total"][0], "twenty steps must change something for equality to mean anything"
    for name, curve in plain.items():
        assert losses(run, f"loss/{name}") == pytest.approx(curve, rel=1e-4), name


def test_metrics_hold_what_a_run_is_judged_by(run: Path) -> None:
    lines = metrics(run)
    every_step = {
        "loss/total",
        "loss/image",
        "loss/video",
        "optim/lr",
        "optim/gradient_norm",
        "perf/clips_per_second",
        "memory/peak_gib",
    }
    assert all(every_step <= line.keys() for line in lines)
    measured = [line for line in lines if line["step"] % 5 == 0]
    assert all(0 < line["loss_relative/image"] < 50 and line["student/effective_rank"] > 1 for line in measured)
    assert lines[-1]["optim/skipped_steps"] == 0


def test_teachers_stay_as_they_were_and_are_in_no_checkpoint(run: Path, shrunk_recipe: TrainingRecipe) -> None:
    student = sum(p.numel() for p in build_predictor(shrunk_recipe).parameters())
    exported = load_file(run / "model" / "model.safetensors")
    assert sum(value.numel() for value in exported.values()) == student
    shards = list((run / "checkpoints").glob("step-*/*optim_states.pt"))
    assert len(shards) == 2
    held = sum(
        state.numel()
        for shard in shards
        for state in torch.load(shard, weights_only=False)["optimizer_state_dict"]["fp32_flat_groups"]
    )
    assert student <= held <= 1.02 * student + 1000, "fp32 masters of the student alone (padding aside)"


def test_one_weight_of_one_teacher_changes_its_loss_only(
    run: Path, shrunk: list[str], shrunk_recipe: TrainingRecipe, tmp_path: Path
) -> None:
    source = Path(shrunk_recipe.teachers["video"].weights)
    changed = tmp_path / "video"
    changed.mkdir()
    (changed / "config.json").write_bytes((source / "config.json").read_bytes())
    weights = load_file(source / "model.safetensors")
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    weights["encoder.blocks.0.attention.qkv.weight"][0, 0] += 1.0
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "run"
    ranks(2, "distill", RECIPE, *shrunk, f"run.output={folder}", f"teachers.video.weights={changed}", "run.stop_after_steps=1")
    assert losses(folder, "loss/image")[0] == losses(run, "loss/image")[0]
    assert losses(folder, "loss/video")[0] != losses(run, "loss/video")[0]
    assert hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest() == digest
