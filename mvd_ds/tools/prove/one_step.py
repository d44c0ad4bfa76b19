"""One training step in every way that this machine has, against the same step in fp32 on the CPU."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.models.acceleration.fp8 import LEAST_SIMILARITY, fp8_obstacle
from mvd_ds.models.acceleration.graphed import GraphedForward
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.runs.placing import round_to_fp8
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.clock import Clock
from mvd_ds.tools.bench.product_step import ProductStep
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.tools.prove.record import Record, relative_error
from mvd_ds.tools.prove.small_recipe import small_recipe
from mvd_ds.training.step import normalise, to_unit

LOSS_BOUNDS = {"fp32": 1e-4, "bf16": 1e-2}
GRADIENT_BOUNDS = {"fp32": 1e-3, "bf16": 6e-2}
"""Largest relative L2 error of all gradients together; bf16 rounds weights, activations and gradients."""


def run(record: Record, device: torch.device) -> None:
    """Check losses and gradients in fp32 and bf16, eager and compiled, then FP8 teachers and graphed teachers."""
    torch.backends.cuda.matmul.allow_tf32 = False
    expected = _step(small_recipe("fp32", "never"), torch.device("cpu"))[:2]
    for precision in ("fp32", "bf16"):
        for compiled in ("never", "blocks"):
            where = f"{precision}, {'eager' if compiled == 'never' else 'compiled'} blocks"
            loss, gradients, faults = _step(small_recipe(precision, compiled), device)
            for fault in faults:
                if device.type == "cuda":
                    record.require(f"{where}: compiled", False, fault)
                else:
                    record.skip(f"{where}: {fault.partition(':')[0]} compiled", fault)
            record.check(f"{where}: loss", abs(loss - expected[0]) / abs(expected[0]), LOSS_BOUNDS[precision])
            record.check(f"{where}: gradients", relative_error(gradients, expected[1]), GRADIENT_BOUNDS[precision])
    for name in small_recipe("bf16", "never").teachers:
        _check_fp8(record, name, device)
        _check_graph(record, name, device)


def _step(recipe: TrainingRecipe, device: torch.device) -> tuple[float, Tensor, list[str]]:
    """Return the loss, all gradients as one vector, and why stacks of blocks were not compiled."""
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    step = ProductStep(recipe, build_predictor(recipe), teachers, device)
    loss = step.loss(random_batch(recipe, 0), Clock(device))
    step.backward(loss)
    gradients = [weight.grad.float().cpu().flatten() for weight in step.weights if weight.grad is not None]
    return float(loss), torch.cat(gradients), [f"{stack.where}: {stack.fault}" for stack in step.stacks if stack.fault]


def _teacher(name: str, device: torch.device) -> tuple[Teacher, Tensor]:
    """Return a bf16 teacher on the device, and clips (B, C, T, H, W) for it."""
    recipe = small_recipe("bf16", "never")
    settings = recipe.teachers[name]
    view = random_batch(recipe, 0).views[recipe.view_of(settings)]
    clip = normalise(to_unit(view.to(device)), torch.bfloat16)
    return build_teacher(name, settings, recipe).to(device, torch.bfloat16), clip


def _check_fp8(record: Record, name: str, device: torch.device) -> None:
    where = f"teacher {name} in FP8: 1 - cosine of its features"
    settings = small_recipe("bf16", "never").teachers[name]
    obstacle = fp8_obstacle(device, torch.bfloat16, [settings.embed_dim, int(settings.embed_dim * settings.mlp_ratio)])
    if obstacle:
        record.skip(where, obstacle)
        return
    record.check(where, 1 - round_to_fp8(*_teacher(name, device)), 1 - LEAST_SIMILARITY)


def _check_graph(record: Record, name: str, device: torch.device) -> None:
    where = f"teacher {name} as a CUDA graph: difference from eager"
    if device.type != "cuda":
        record.skip(where, "CUDA graphs need a GPU")
        return
    teacher, clip = _teacher(name, device)
    with torch.no_grad():
        expected = teacher(clip)
        graphed = GraphedForward(teacher, f"teacher {name}")
        for _ in range(4):
            found = cast(Tensor, graphed(clip))
    record.check(where, relative_error(found, expected), 0.0)
