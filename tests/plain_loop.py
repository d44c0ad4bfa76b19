"""Stage two as an ordinary PyTorch loop in one process, to compare with: no engine, no code of training/."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.masking_batch import DeviceMasks
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from shrinking import STEPS


def plain_losses(recipe: TrainingRecipe, without: int | None = None) -> dict[str, list[float]]:
    """Losses of every step by name from an ordinary loop: no engine, no sharding, no checkpointing, no code of training/.

    Steps in which video ``without`` comes are left out, and their losses are NaN.
    """
    student = build_predictor(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"activation_checkpointing": 0})})
    )
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    matrices = [
        p for n, p in student.named_parameters() if p.ndim > 1 and not any(token in n for token in ("cls_token", "registers"))
    ]
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
    curves: dict[str, list[float]] = {name: [] for name in ("total", *recipe.outputs)}
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    student.train()
    for step in range(STEPS):
        sums = dict.fromkeys(curves, 0.0)
        for _ in range(micro_batches):
            batch = next(batches)
            if without is not None and without in batch.sample:
                sums = dict.fromkeys(curves, math.nan)
            clip = (batch.views[recipe.data.clip.size_px].float() / 255 - mean) / deviation
            if recipe.masking.teacher is not None:
                with torch.no_grad():
                    batch = DeviceMasks(recipe)(batch, teachers[recipe.masking.teacher](clip)["attention"])
            predictions = student(clip, batch.visible, batch.masked, batch.drop_path)
            total = torch.zeros(())
            rows = batch.masked[:, 0]
            for teacher, network in teachers.items():
                with torch.no_grad():
                    given = network(clip)
                for name, source in (given if isinstance(given, dict) else {teacher: given}).items():
                    if name not in predictions:  # the attention that masks are drawn from
                        continue
                    target = torch.stack([source[i, rows[i]] for i in range(len(rows))])
                    loss = plain_loss(recipe, name, predictions[name], target)
                    sums[name] += loss.item() / micro_batches
                    total = total + plain_weight(recipe, name) * loss
            (total / micro_batches).backward()
            sums["total"] += total.item() / micro_batches
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(step, recipe)
        if not math.isnan(sums["total"]):
            optimizer.step()
        optimizer.zero_grad()
        for name, value in sums.items():
            curves[name].append(value)
    loader.close()
    return curves


def plain_loss(recipe: TrainingRecipe, name: str, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Smooth L1, or the divergence of the relations of every head, with all matrices in memory."""
    output = recipe.outputs[name]
    if output.target.kind != "relations":
        return F.smooth_l1_loss(prediction, target)
    heads, total = recipe.teachers[output.teacher].num_heads, torch.zeros(())
    logits = []
    for packed in (prediction, target):
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
        logits.append([left @ right.mT / left.shape[-1] ** 0.5 for left, right in ((query, key), (value, value))])
    for mine, theirs in zip(*logits, strict=True):
        divergence = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
        total = total + divergence.sum(-1).mean()
    return total


def plain_weight(recipe: TrainingRecipe, name: str) -> float:
    """Factor of a loss in the total."""
    output = recipe.outputs[name]
    return recipe.teachers[output.teacher].weight if output.target.weight is None else output.target.weight


def plain_rate(step: int, recipe: TrainingRecipe) -> float:
    scale = recipe.batch.global_ / 256
    peak, final = recipe.optimizer.base_lr * scale, recipe.optimizer.min_base_lr * scale
    warmup = recipe.schedule.warmup_steps or 0
    if step < warmup:
        return peak * step / (warmup - 1)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))
