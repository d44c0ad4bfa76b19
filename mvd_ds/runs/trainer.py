"""The parts of a training run that ``train`` and ``finetune`` build, and sentences on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import LearningRecipe
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.optim import describe_groups
from mvd_ds.training.protocols import Loader, Objective, Pictures, Validation
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.run_folder import RunFolder


@dataclass
class Trainer:
    """The parts of a training run, ready to start."""

    recipe: LearningRecipe
    folder: RunFolder
    cluster: Cluster
    loader: Loader
    engine: Engine
    ema: Ema
    objective: Callable[[], tuple[Objective, dict[str, Any]]]
    """Makes the objective and its frozen networks by name; called after the states are loaded, which take most memory."""
    flops_per_clip: float
    """Operations of a training step per clip."""
    export: Callable[[dict[str, Tensor], dict[str, Tensor] | None, int, dict[str, Tensor]], None]
    """Writes (weights, their moving average or None, step, statistics of targets) as a model; called on rank 0."""
    memory: MemoryMonitor
    """Monitor that began before the engine was started."""
    validation: Validation | None = None
    pictures: Pictures | None = None
    groups: list[dict[str, str | float]] = field(default_factory=list)
    """``group_rows`` of the optimizer."""
    label: str = ""
    """How lines on it begin, where several students are trained together."""


def describe_batches(recipe: LearningRecipe, cluster: Cluster, loader: Loader) -> str:
    """Return batches, learning rate and length in a sentence."""
    batch, masks = recipe.batch, recipe.masks_per_clip
    peak, final = recipe.learning_rate
    each = f", {masks} mask{'s' * (masks > 1)} each" if recipe.command in ("pretrain", "distill") else ""
    steps, warmup = recipe.schedule.last_step(loader.steps_per_epoch), recipe.schedule.warmup(loader.steps_per_epoch)
    course = f"falling to {final:.3g}" if warmup < steps else f"at the end of the warm-up of {warmup} steps, and never falling"
    return (
        f"{batch.micro} clips x {batch.accumulation_steps(cluster.world)} accumulation x {cluster.world} processes = "
        f"{batch.global_} clips a step{each}; learning rate {peak:.3g} {course} (counts "
        f"{recipe.optimizer.lr_counts}); {loader.steps_per_epoch} steps an epoch over {loader.clips_in_manifest} clips; "
        f"{steps} steps"
    )


def describe_parameters(recipe: LearningRecipe, cluster: Cluster, model: torch.nn.Module, groups: list[dict[str, Any]]) -> str:
    """Return a line on what is trained, where and how."""
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    where = f"on {cluster.device.type}, {recipe.engine.precision}, {recipe.engine.config}"
    return f"{parameters:,} trained parameters {where}; {describe_groups(groups)}"
