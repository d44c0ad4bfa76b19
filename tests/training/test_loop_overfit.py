"""Fifty steps on one batch: the loss falls to a sixth, and below what the mean target gives."""

from __future__ import annotations

import torch

from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.diagnostics import mean_target_loss
from mvd_ds.objectives.terms import combine
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.optim import build_optimizer, parameter_groups
from mvd_ds.training.step import TeacherTargets, normalise, to_unit
from shrinking import shipped


def test_fifty_steps_overfit_one_batch(shrunk: list[str]) -> None:
    recipe = shipped([*shrunk, "model.drop_path=0", "batch.micro=1", "decoder.embed_dim=64"])
    student = build_predictor(recipe)
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    targets_of = TeacherTargets(recipe, teachers, torch.float32)
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    batch = to_device(next(loader.batches(0, 1)), torch.device("cpu"))
    loader.close()
    targets = targets_of(batch)
    optimizer = build_optimizer(parameter_groups(student, recipe.optimizer), recipe.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    clip = normalise(to_unit(batch.views[recipe.data.clip.size_px]), torch.float32)
    losses = []
    for _ in range(50):
        loss = combine(student(clip, batch.visible, batch.masked, batch.drop_path), targets, targets_of.terms)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    # Predicting the mean target of the batch is what a student does that has learned nothing about places.
    trivial = sum(mean_target_loss(targets[name], term.loss).item() for name, term in targets_of.terms.items())
    assert losses[-1] < 0.2 * losses[0] and losses[-1] < 0.85 * trivial, (losses[0], losses[-1], trivial)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())
    assert all(parameter.grad is None for teacher in teachers.values() for parameter in teacher.parameters())
