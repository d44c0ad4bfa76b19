"""Fifty steps on one batch bring the loss near zero: gradients reach everything that has to learn."""

from __future__ import annotations

import torch

from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.masked import build_predictor
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.terms import combine
from mvd_ds.training.optim import build_optimizer, parameter_groups
from mvd_ds.training.step import DeviceBatch, TeacherTargets, normalise, to_unit
from shrinking import shipped


def test_fifty_steps_overfit_one_batch(shrunk: list[str]) -> None:
    recipe = shipped([*shrunk, "model.drop_path=0", "batch.micro=4", "decoder.embed_dim=64"])
    student = build_predictor(recipe)
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    targets_of = TeacherTargets(recipe, teachers, torch.float32)
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank=0, world=1)
    batch = DeviceBatch(next(loader.batches(0, 1)), torch.device("cpu"))
    loader.close()
    targets = targets_of(batch)
    optimizer = build_optimizer(parameter_groups(student, recipe.optimizer), recipe.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    clip = normalise(to_unit(batch.views[recipe.data.clip.size_px]), torch.float32)
    losses = []
    for _ in range(50):
        loss = combine(student(clip, batch.visible, batch.masked, batch.drop_path), targets, targets_of.terms)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert losses[-1] < 0.15 * losses[0], losses
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())
    assert all(parameter.grad is None for teacher in teachers.values() for parameter in teacher.parameters())
