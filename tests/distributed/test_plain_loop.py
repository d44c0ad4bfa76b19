"""A shipped recipe under ZeRO-3 in two processes equals a plain PyTorch loop in one, loss by loss."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from launching import launch, losses, metrics
from mvd_ds.config import TrainingRecipe, differences, dump, load_recipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.masked import build_predictor
from mvd_ds.models.teachers import build_teacher
from shrinking import RECIPE, STEPS, shipped

pytestmark = pytest.mark.launch


def plain_losses(recipe: TrainingRecipe) -> dict[str, list[float]]:
    """Losses of every step by name from an ordinary loop: no engine, no sharding, no checkpointing, no code of training/."""
    student = build_predictor(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"activation_checkpointing": 0})})
    )
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    matrices = [p for n, p in student.named_parameters() if p.ndim > 1 and not n.endswith("cls_token")]
    vectors = [p for p in student.parameters() if not any(p is m for m in matrices)]
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=settings.betas,
        eps=settings.eps,
    )
    loader = ClipLoader(recipe, student.drop_path_blocks, rank=0, world=1)
    batches = loader.batches(0, STEPS)
    micro_batches = recipe.batch.global_ // recipe.batch.micro
    curves: dict[str, list[float]] = {name: [] for name in ("total", *teachers)}
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    student.train()
    for step in range(STEPS):
        sums = dict.fromkeys(curves, 0.0)
        for _ in range(micro_batches):
            batch = next(batches)
            clip = (batch.views[recipe.data.clip.size_px].float() / 255 - mean) / deviation
            predictions = student(clip, batch.visible, batch.masked, batch.drop_path)
            total = torch.zeros(())
            for name, teacher in teachers.items():
                with torch.no_grad():
                    features = teacher(clip)
                rows = batch.masked[:, 0]
                target = torch.stack([features[i, rows[i]] for i in range(len(rows))])
                loss = F.smooth_l1_loss(predictions[name], target)
                sums[name] += loss.item() / micro_batches
                total = total + loss
            (total / micro_batches).backward()
            sums["total"] += total.item() / micro_batches
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(step, recipe)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in sums.items():
            curves[name].append(value)
    loader.close()
    return curves


def plain_rate(step: int, recipe: TrainingRecipe) -> float:
    scale = recipe.batch.global_ / 256
    peak, final = recipe.optimizer.base_lr * scale, recipe.optimizer.min_base_lr * scale
    warmup = recipe.schedule.warmup_steps or 0
    if step < warmup:
        return peak * step / (warmup - 1)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


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


def test_zero3_with_sharded_teachers_equals_plain_loop(run: Path, shrunk_recipe: TrainingRecipe) -> None:
    expected = plain_losses(shrunk_recipe)
    assert expected["total"][-1] < 0.8 * expected["total"][0], "twenty steps must change something for equality to mean anything"
    for name, curve in expected.items():
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
    launch(2, "distill", RECIPE, *shrunk, f"run.output={folder}", f"teachers.video.weights={changed}", "run.stop_after_steps=1")
    assert losses(folder, "loss/image")[0] == losses(run, "loss/image")[0]
    assert losses(folder, "loss/video")[0] != losses(run, "loss/video")[0]
    assert hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest() == digest
