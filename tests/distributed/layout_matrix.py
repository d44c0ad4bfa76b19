"""Run by test_layout_matrix.py: the same run in many layouts, one after another, in one group of processes.

Prints one line of JSON on rank 0: losses of every step and bytes of sharded state by layout.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.teachers import plan_teacher
from mvd_ds.objectives.moving_statistics import update_statistics
from mvd_ds.runs.student import plan_predictor
from mvd_ds.training.calibration import calibrate
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import full_weights, import_deepspeed, joined_cluster
from mvd_ds.training.engine.deepspeed_start import start_student, start_teacher
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.language import CaptionLoss
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.optim import parameter_groups
from mvd_ds.training.reporting.memory import state_bytes
from mvd_ds.training.schedule import build_schedule
from mvd_ds.training.step import TeacherTargets
from shrinking import LIBRARY_STEPS, SHORT, STEPS, shipped

deepspeed = import_deepspeed()


def main(layouts: dict[str, list[str]], overrides: list[str]) -> None:
    recipes = {name: shipped([*overrides, *more]) for name, more in layouts.items()}
    with joined_cluster(5, "cpu") as cluster:
        # The same in every layout of the same data, as many random numbers and the same masks, and read once.
        read: dict[Any, tuple[list[ClipBatch], Callable[[int], float]]] = {}
        found = {}
        for name, recipe in recipes.items():
            key = recipe.data, recipe.drop_path_blocks, recipe.masking, recipe.drop_teachers, recipe.language
            if key not in read:
                loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world)
                read[key] = list(loader.batches(0, STEPS)), build_schedule(recipe, loader.steps_per_epoch)
                loader.close()
            found[name] = _train(recipe, cluster, *read[key], LIBRARY_STEPS if name.startswith(SHORT) else STEPS)
        if cluster.is_main:
            print(json.dumps(found), flush=True)


def _train(
    recipe: TrainingRecipe, cluster: Cluster, batches: list[ClipBatch], schedule: Callable[[int], float], steps: int
) -> dict[str, Any]:
    hosts = int(os.environ.get("TEST_PROCESSES_PER_HOST", cluster.world))
    os.environ.update(LOCAL_RANK=str(cluster.rank % hosts), LOCAL_WORLD_SIZE=str(hosts))
    plan = plan_predictor(recipe)
    engine = start_student(plan, parameter_groups(plan.structure, recipe.optimizer), recipe, cluster)
    gate = UpdateGate(engine)
    placed = {
        name: start_teacher(plan_teacher(name, settings, recipe), settings.placement, recipe, cluster, name)
        for name, settings in recipe.teachers.items()
    }
    living = Living(recipe, engine, placed, cluster)
    targets = TeacherTargets(recipe, placed, next(engine.module.parameters()).dtype, device_masks(recipe))
    captions = CaptionLoss(recipe.language, cluster.gather_tensor, cluster.rank) if recipe.language is not None else None
    objective = MaskedPrediction(recipe, engine, targets, cluster.device, captions)
    read = batches[: -(-recipe.calibration_clips // recipe.batch.global_) * recipe.batch.accumulation_steps(cluster.world)]
    calibrate(objective, lambda: read, cluster)
    losses, coming = [], iter(batches)
    accumulation = recipe.batch.accumulation_steps(cluster.world)
    for step in range(steps):
        for group in engine.optimizer.param_groups:
            group["lr"] = schedule(step)
        mean = 0.0
        for batch in objective.prepare(list(islice(coming, accumulation))):
            terms = objective(batch, measure=False)
            engine.backward(terms.total)
            engine.step()
            mean += float(cluster.mean(terms.total.detach())) / accumulation
        living.update(gate.shut, step)
        update_statistics(list(objective.statistics.values()), cluster.sum, gate.shut, step / STEPS)
        losses.append(mean)
    assert gate.verdict().passed()
    state = state_bytes(engine, placed)
    engine.destroy()
    del engine, placed, objective, plan, living
    gc.collect()
    return {"losses": losses, "bytes": state}


class Living:
    """The average of a layout with teachers that are it, and that of whole weights in one process: the same to the bit."""

    def __init__(self, recipe: TrainingRecipe, engine: Any, placed: dict[str, Any], cluster: Cluster) -> None:
        self.recipe, self.engine, self.cluster = recipe, engine, cluster
        self.placed = {name: teacher for name, teacher in placed.items() if recipe.teachers[name].is_ema}
        self.ema = Ema(engine, recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end)
        for name, teacher in self.placed.items():
            self.ema.follow(teacher, name)
        self.whole = full_weights(engine, cluster) if self.placed else {}
        self.require_equal()

    def update(self, shut: torch.Tensor, step: int) -> None:
        self.ema.update(shut, step / STEPS)
        if not self.placed:
            return
        first, last = self.recipe.optimizer.ema_decay, self.recipe.optimizer.ema_decay_end
        assert first is not None and last is not None
        decay = last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        weights = full_weights(self.engine, self.cluster)
        for name, average in self.whole.items():
            average.lerp_(weights[name], torch.tensor(1 - decay))
        self.require_equal()

    def require_equal(self) -> None:
        """Gather every teacher, and compare it on every rank with the average on rank 0."""
        for teacher in self.placed.values():
            expected = self.cluster.broadcast(self.whole)
            for name, parameter in getattr(teacher, "module", teacher).named_parameters():
                with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                    assert parameter.equal(expected[name]), name


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main(json.loads(Path(arguments[0]).read_text()), arguments[1:])
