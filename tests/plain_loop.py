"""Stage two as an ordinary PyTorch loop in one process, to compare with: no engine, of training/ local crops alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import TargetSettings, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.masking_batch import DeviceMasks
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.prototype_inputs import PrototypeInputs
from plain_targets import PlainTargets
from shrinking import STEPS


def plain_losses(recipe: TrainingRecipe, without: int | None = None, steps: int = STEPS) -> dict[str, list[float]]:
    """Losses of every step by name from an ordinary loop: no engine, no sharding, no checkpointing.

    Steps in which video ``without`` comes are left out, and their losses are NaN.
    """
    student = build_predictor(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"activation_checkpointing": 0})})
    )
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    optimizer = _optimizer(recipe, student)
    loader = ClipLoader(recipe, student.drop_path_blocks, rank=0, world=1)
    batches = loader.batches(0, STEPS)
    micro_batches = recipe.batch.global_ // recipe.batch.micro
    curves: dict[str, list[float]] = {name: [] for name in ("total", *recipe.outputs)}
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    state = _calibrated(recipe, teachers, (mean, deviation))
    first_picture = plain_first_picture(recipe)
    averages = {name: value.detach().clone() for name, value in student.named_parameters()}
    follow(recipe, averages, teachers)
    student.train()
    for step in range(steps):
        sums = dict.fromkeys(curves, 0.0)
        told: list[dict[str, Tensor]] = []
        coming = [next(batches) for _ in range(micro_batches)]
        videos = sum(int((batch.sample < first_picture).sum()) for batch in coming)
        for batch in coming:
            if without is not None and without in batch.sample:
                sums = dict.fromkeys(curves, math.nan)
            clip = (batch.views[recipe.data.clip.size_px].float() / 255 - mean) / deviation
            if recipe.masking.teacher is not None:
                with torch.no_grad():
                    batch = DeviceMasks(recipe)(batch, teachers[recipe.masking.teacher](clip)["attention"])
            more = prototype_inputs(recipe, batch, step, normal=(mean, deviation))
            predictions = student(clip, batch.visible, batch.masked, batch.drop_path, **more)
            sources = _sources(teachers, clip, batch)
            if state.is_scaled:
                total, losses = state.terms(predictions, sources, batch)
            else:
                # Of losses that pictures have no part in, a step's mean is over its videos.
                shares = (batch.sample < first_picture) * (recipe.batch.global_ / max(videos, 1))
                total, losses = plain_terms(recipe, predictions, sources, batch, step, state, shares)
            sums |= {name: sums[name] + loss / micro_batches for name, loss in losses.items()}
            if recipe.language is not None:
                told.append(student(clip, batch.visible, batch.masked, captions=batch.captions, pairs_alone=True))
            (total / micro_batches).backward()
            sums["total"] += total.item() / micro_batches
        sums["total"] += plain_pairs(recipe, told)
        state.end_step(step / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(step, recipe)
        if not math.isnan(sums["total"]):
            optimizer.step()
            average(recipe, student, averages, step)
            follow(recipe, averages, teachers)
        optimizer.zero_grad()
        for name, value in sums.items():
            curves[name].append(value)
    loader.close()
    return curves


def plain_first_picture(recipe: TrainingRecipe) -> float:
    """Return the number of the first picture of the last source, where this is for image teachers alone."""
    if not recipe.data.sources or recipe.data.sources[-1].images != "image_teachers":
        return math.inf
    rows = [line for source in recipe.data.sources[:-1] for line in Path(source.manifest).read_text().splitlines()]
    return sum('"path"' in row for row in rows)


def prototype_inputs(recipe: TrainingRecipe, batch: ClipBatch, step: int, normal: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return what a head of prototypes takes beside the clip: its local crops, and whether the prototypes learn in this step."""
    given = PrototypeInputs(recipe)(batch)
    if "local" in given:
        given["local"] = (given["local"] - normal[0]) / normal[1]
    if "learning" in given:
        frozen = next(o.target.prototypes for o in recipe.outputs.values() if o.target and o.target.kind == "prototypes")
        given["learning"] = torch.tensor(float(step >= frozen.frozen_steps))
    return given


def average(recipe: TrainingRecipe, student: torch.nn.Module, averages: dict[str, Tensor], step: int) -> None:
    """Move the average of whole weights after a step."""
    first, last = recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end
    if first is None:
        return
    decay = first if last is None else last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
    with torch.no_grad():
        for name, value in student.named_parameters():
            averages[name].lerp_(value, torch.tensor(1 - decay))


def follow(recipe: TrainingRecipe, averages: dict[str, Tensor], teachers: dict[str, Teacher]) -> None:
    """Give the average to the teachers that are it."""
    with torch.no_grad():
        for name, teacher in teachers.items():
            for key, value in teacher.named_parameters() if recipe.teachers[name].is_ema else ():
                value.copy_(averages[key])


def plain_pairs(recipe: TrainingRecipe, told: list[dict[str, Tensor]]) -> float:
    """Add the gradient of InfoNCE, both ways, of the vectors of all micro batches of a step in one graph; return its share."""
    if recipe.language is None:
        return 0.0
    clips, texts = (torch.cat([part[f"language.{name}"] for part in told]) for name in ("clips", "texts"))
    scores = told[0]["language.scale"][0].exp() * clips[:, 0] @ texts.mT
    right = torch.arange(len(texts))
    loss = recipe.language.weight * (F.cross_entropy(scores, right) + F.cross_entropy(scores.mT, right)) / 2
    loss.backward()
    return loss.item()


def _optimizer(recipe: TrainingRecipe, student: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone."""
    matrices = [
        p for n, p in student.named_parameters() if p.ndim > 1 and not any(token in n for token in ("cls_token", "registers"))
    ]
    vectors = [p for p in student.parameters() if not any(p is m for m in matrices)]
    settings = recipe.optimizer
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=settings.betas,
        eps=settings.eps,
    )


def _sources(teachers: dict[str, Teacher], clip: Tensor, batch: ClipBatch) -> dict[str, Tensor]:
    """What outputs are learnt from, by name: the classes of clips, and all that teachers give of all tokens."""
    sources = {"labels": batch.labels}
    for name, teacher in teachers.items():
        with torch.no_grad():
            given = teacher(clip)
        sources |= given if isinstance(given, dict) else {name: given}
    return sources


def _calibrated(recipe: TrainingRecipe, teachers: dict[str, Teacher], normal: tuple[Tensor, Tensor]) -> PlainTargets:
    """The state of targets and balance after the calibration steps."""
    state = PlainTargets(recipe)
    if state.is_needed:
        loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
        batches = list(loader.batches(0, -(-recipe.calibration_clips // recipe.batch.global_)))
        loader.close()
        clips = [(batch.views[recipe.data.clip.size_px].float() / 255 - normal[0]) / normal[1] for batch in batches]
        state.begin([(_sources(teachers, clip, batch), batch) for clip, batch in zip(clips, batches, strict=True)])
    return state


def plain_relations(prediction: Tensor, target: Tensor, heads: int) -> Tensor:
    """The divergence of the relations of every head, with all matrices in memory."""
    total, logits = torch.zeros(()), []
    for packed in (prediction, target):
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
        logits.append([left @ right.mT / left.shape[-1] ** 0.5 for left, right in ((query, key), (value, value))])
    for mine, theirs in zip(*logits, strict=True):
        divergence = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
        total = total + divergence.sum(-1).mean()
    return total


def plain_terms(
    recipe: TrainingRecipe, predictions: dict[str, Tensor], sources: dict[str, Tensor], *given: Any
) -> tuple[Tensor, dict[str, float]]:
    """Total of all outputs, and the loss of each; ``given`` is what ``plain_term`` takes after the source."""
    found = {name: plain_term(recipe, name, told, sources[name], *given) for name, told in predictions.items()}
    total = torch.zeros(())
    for weight, loss in found.values():
        total = total + weight * loss
    return total, {name: loss.item() for name, (_, loss) in found.items()}


def plain_term(
    recipe: TrainingRecipe,
    name: str,
    prediction: Tensor,
    source: Tensor,
    batch: ClipBatch,
    step: int,
    state: PlainTargets,
    shares: Tensor,
) -> tuple[float, Tensor]:
    """Weight and loss of one output under one mask a clip, clip by clip and token by token.

    Args:
        shares: (clips,), the factor of each in losses that pictures for image teachers alone have no part in.
    """
    if name == "labels":
        assert recipe.labels is not None
        logits = prediction / recipe.labels.temperature
        losses = [-logits[i].log_softmax(0)[label] for i, label in enumerate(batch.labels[:, 0].tolist()) if label >= 0]
        return recipe.labels.weight, torch.stack([*losses, logits.sum() * 0]).sum() / len(logits)
    output = recipe.outputs[name]
    assert output.target is not None and output.teacher is not None
    target, weight = output.target, recipe.teachers[output.teacher].weight
    weight = weight if target.weight is None else target.weight
    if target.kind == "summary":
        return weight, torch.arccos(F.cosine_similarity(prediction, source)).square().mean() / state.dispersions[name]
    if target.kind == "prototypes":
        return weight, state.centres[name].loss(prediction, source, batch.masked[:, 0])
    kind = recipe.teachers[output.teacher].kind
    shares = torch.ones(len(prediction)) if kind == "image" else shares
    clips = []
    for given in zip(prediction, source, batch.masked[:, 0], batch.visible[:, 0], strict=True):
        told, known, masked, _ = given
        if target.kind == "codes":
            rows = zip(told.log_softmax(-1), known[masked, 0], strict=True)
            clips.append(-torch.stack([row[code] for row, code in rows]).mean())
        elif target.kind == "relations":
            heads = recipe.teachers[output.teacher].num_heads
            clips.append(plain_relations(told[None], known[masked][None], heads))
        else:
            clips.append(plain_clip(recipe, target, *given, step))
    return weight, (torch.stack(clips) * shares).mean()


def plain_clip(
    recipe: TrainingRecipe, target: TargetSettings, prediction: Tensor, source: Tensor, masked: Tensor, visible: Tensor, step: int
) -> Tensor:
    """Loss of the features of one clip, with that of its visible tokens where they are predicted."""
    parts = len(target.blocks) if target.mode == "each" else 1

    def losses(tokens: Tensor, first: int) -> list[Tensor]:
        found = []
        for number, token in enumerate(tokens):
            wanted = source[token].unflatten(0, (parts, -1))
            wanted = F.layer_norm(wanted, wanted.shape[-1:], eps=1e-6) if target.normalise else wanted
            found.append(F.smooth_l1_loss(prediction[first + number].unflatten(0, (parts, -1)), wanted))
        return found

    loss = torch.stack(losses(masked, 0)).mean()
    if target.tokens == "masked":
        return loss
    hidden = [np.array(np.unravel_index(int(token), recipe.grid)) for token in masked]
    shares = []
    for token in visible:
        here = np.array(np.unravel_index(int(token), recipe.grid))
        shares.append(min(float(np.linalg.norm(here - other)) for other in hidden) ** -0.5)
    start, full = target.visible_ramp
    ramp = min(max((step - start) / (full - start), 0.0), 1.0)
    of_visible = torch.stack([share * one for share, one in zip(shares, losses(visible, len(masked)), strict=True)]).mean()
    return loss + target.visible_weight * ramp * of_visible


def plain_rate(step: int, recipe: TrainingRecipe) -> float:
    scale = recipe.batch.global_ / 256
    peak, final = recipe.optimizer.base_lr * scale, recipe.optimizer.min_base_lr * scale
    warmup = recipe.schedule.warmup_steps or 0
    if step < warmup:
        return peak * step / (warmup - 1)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))
