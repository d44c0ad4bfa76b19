"""DeepSpeed's engine on all devices of this machine: every ZeRO stage and teacher placement against plain torch on the CPU."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.files import ConfigError
from mvd_ds.models.teachers import build_teacher, plan_teacher
from mvd_ds.runs.student import build_predictor, plan_predictor
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.tools.prove.record import Record, relative_error
from mvd_ds.tools.prove.small_recipe import small_recipe
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import full_weights, joined_cluster
from mvd_ds.training.engine.deepspeed_start import start_student, start_teacher
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.optim import build_optimizer, parameter_groups
from mvd_ds.training.step import TeacherTargets

CONFIGS = ("zero1.json", "zero2.json", "zero3.json")
WAITLESS = ("zero1.json", "zero2.json")
"""Engine configs under which nothing waits for the device between log steps; DeepSpeed itself does under ZeRO-3."""
PLACEMENTS = ("zero3", "zero3_node", "zero3_offload")
STEPS = 4
LEARNING_RATE = 1e-3
LOSS_BOUND = 2e-3
"""Largest relative difference of a loss, in fp32, after updates by Adam, which turns rounding of small gradients into steps."""


def run(record: Record, device: torch.device) -> None:
    """Check each engine config and teacher placement, in one group of processes."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with joined_cluster(5, device.type if device.type == "cpu" else "auto") as cluster:
        expected = _plain_losses(_recipe(cluster, "zero1.json"), cluster.world)
        for config in CONFIGS:
            _check_config(record, config, cluster, expected)
        for placement in PLACEMENTS:
            _check_placement(record, placement, cluster)
        if cluster.is_main:
            record.measure("processes", cluster.world)


def _recipe(cluster: Cluster, config: str) -> TrainingRecipe:
    return small_recipe("fp32", "never", f"engine.config={config}", "batch.micro=2", f"batch.global={2 * cluster.world}")


def _plain_losses(recipe: TrainingRecipe, world: int) -> list[float]:
    """Return the mean loss of every step of an ordinary loop on the CPU over the clips of all processes."""
    student = build_predictor(recipe)
    optimizer = build_optimizer(parameter_groups(student, recipe.optimizer), recipe.optimizer)
    teachers: dict[str, Callable[..., Tensor]] = {
        name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()
    }
    objective = MaskedPrediction(recipe, student, TeacherTargets(recipe, teachers, torch.float32), torch.device("cpu"))
    losses = []
    for step in range(STEPS):
        totals = [objective(random_batch(recipe, step * world + rank), measure=False).total for rank in range(world)]
        torch.stack(totals).mean().backward()
        if recipe.optimizer.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(student.parameters(), recipe.optimizer.gradient_clipping)
        _set_rate(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(torch.stack(totals).mean()))
    return losses


def _set_rate(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE


def _check_config(record: Record, config: str, cluster: Cluster, expected: list[float]) -> None:
    """Check losses of steps, that they never wait, and that a step that is not finite changes no weight."""
    recipe = _recipe(cluster, config)
    plan = plan_predictor(recipe)
    engine = start_student(plan, parameter_groups(plan.structure, recipe.optimizer), recipe, cluster)
    gate = UpdateGate(engine)
    teachers: dict[str, Callable[..., Tensor]] = {
        name: build_teacher(name, settings, recipe).to(cluster.device) for name, settings in recipe.teachers.items()
    }
    objective = MaskedPrediction(recipe, engine, TeacherTargets(recipe, teachers, torch.float32), cluster.device)
    totals = []
    for step in range(STEPS):
        batch = random_batch(recipe, step * cluster.world + cluster.rank)
        # The first step makes states, and may wait.
        try:
            with _refused_waits(cluster.device, step > 0 and config in WAITLESS):
                totals.append(_step(engine, objective, batch))
        except RuntimeError as error:  # CUDA's word for a wait, or whatever else a step of this engine raises
            record.require(f"{config}: step {step + 1} runs, and does not wait for the device", False, str(error))
            return
    losses = [float(cluster.mean(total)) for total in totals]
    worst = max(abs(ours - plain) / abs(plain) for ours, plain in zip(losses, expected, strict=True))
    record.check(f"{config}: losses of {STEPS} steps", worst, LOSS_BOUND)
    record.require(f"{config}: every update passed", gate.verdict().passed())
    if cluster.device.type == "cuda" and config in WAITLESS:
        record.require(f"{config}: no step waited for the device", True)
    before = full_weights(engine, cluster)
    _step(engine, objective, random_batch(recipe, 0), spoil=torch.nan)
    shut = not gate.verdict().passed()
    after = full_weights(engine, cluster)
    if cluster.is_main:
        same = all(torch.equal(before[name], after[name]) for name in before)
        record.require(f"{config}: a step that is not finite is seen, and changes no weight", shut and same)
    engine.destroy()
    gc.collect()


def _step(engine: Any, objective: MaskedPrediction, batch: Any, spoil: float = 1.0) -> Tensor:
    """Return the loss of a step on ``batch``; ``spoil`` multiplies it."""
    total = objective(batch, measure=False).total
    engine.backward(total * spoil)
    _set_rate(engine.optimizer)
    engine.step()
    return total.detach()


@contextlib.contextmanager
def _refused_waits(device: torch.device, wanted: bool) -> Iterator[None]:
    """Have CUDA raise an error where the host waits for the device inside."""
    if not wanted or device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _check_placement(record: Record, placement: str, cluster: Cluster) -> None:
    """Check a teacher's features against those of a whole copy on the device."""
    recipe = _recipe(cluster, "zero2.json")
    for name, settings in recipe.teachers.items():
        view = random_batch(recipe, 0).views[recipe.view_of(settings)]
        clip = view.to(cluster.device).float() / 255
        with torch.no_grad():
            expected = build_teacher(name, settings, recipe).to(cluster.device)(clip)
            try:
                placed = start_teacher(plan_teacher(name, settings, recipe), placement, recipe, cluster, name)
            except ConfigError as error:
                record.skip(f"teacher {name}, {placement}", error)
                continue
            found = placed(clip)
        record.check(f"teacher {name}, {placement}: features against a whole copy's", relative_error(found, expected), 1e-6)
