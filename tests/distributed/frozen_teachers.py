"""Run under the launcher by test_frozen_teachers.py: train three steps, then look at the sharded teachers.

Prints one line of JSON on rank 0.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

import mvd_ds.runs.train  # noqa: F401 - what a rank of the product loads
from mvd_ds.config import TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.terms import combine
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.deepspeed_start import start_student, start_teacher
from mvd_ds.training.optim import parameter_groups
from mvd_ds.training.step import TeacherTargets, normalise, to_unit
from shrinking import shipped

#: Modules that take a rank seconds of a core to load, and training needs none of.
NEEDLESS = ("torch._inductor.compile_fx", "sklearn", "scipy", "matplotlib", "timm")


def main(overrides: list[str]) -> None:
    recipe = shipped(overrides)
    linear = torch.nn.functional.linear
    with joined_cluster(recipe.engine.timeout_minutes, "cpu") as cluster:
        student = build_predictor(recipe)
        whole = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
        before = {name: {key: value.clone() for key, value in teacher.named_parameters()} for name, teacher in whole.items()}
        engine = start_student(student, parameter_groups(student, recipe.optimizer), recipe, cluster)
        placed = {name: start_teacher(teacher, "zero3", recipe, cluster) for name, teacher in whole.items()}
        ahead = {name: _fetched_ahead(engine.module.encoder.blocks) for name, engine in placed.items()}
        targets_of = TeacherTargets(recipe, placed, torch.float32)
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world)
        for group in engine.optimizer.param_groups:
            group["lr"] = 1e-2
        for raw in loader.batches(0, 3):
            batch = to_device(raw, cluster.device)
            clip = normalise(to_unit(batch.views[recipe.data.clip.size_px]), torch.float32)
            predictions = engine(clip, batch.visible, batch.masked, batch.drop_path)
            engine.backward(combine(predictions, targets_of(batch), targets_of.terms).total)
            engine.step()
        loader.close()
        found = {
            "same": all(_whole(p).equal(before[n][k]) for n, e in placed.items() for k, p in e.module.named_parameters()),
            "sharded": sum(p.ds_tensor.numel() < p.ds_numel for e in placed.values() for p in e.module.parameters()),
            "gradients": sum(p.grad is not None or p.requires_grad for e in placed.values() for p in e.module.parameters()),
            "optimizers": sum(bool(getattr(e.optimizer, "param_groups", None)) for e in placed.values()),
            "exact": all(engine(clip).equal(whole_teacher(clip)) for engine, whole_teacher in _beside(placed, recipe)),
            "ahead": ahead,
            "linear_untouched": torch.nn.functional.linear is linear,
            "steps": engine.global_steps,
            "needless": [name for name in NEEDLESS if name in sys.modules],
        }
        if cluster.is_main:
            print(json.dumps(found), flush=True)


def _beside(placed: dict[str, Any], recipe: TrainingRecipe) -> list[tuple[Any, Any]]:
    """Each engine, and the same teacher whole in this process alone."""
    return [(engine, build_teacher(name, recipe.teachers[name], recipe)) for name, engine in placed.items()]


def _fetched_ahead(blocks: torch.nn.ModuleList) -> list[bool]:
    """Filled while ``blocks`` run, one entry each time but for the last: are the next one's weights here or on their way?"""
    found: list[bool] = []
    for block, following in itertools.pairwise(blocks):
        sharded = [parameter for parameter in following.parameters() if not parameter.ds_persist]

        def look(*_: Any, sharded: list[Any] = sharded) -> None:
            found.append(all(parameter.ds_status != ZeroParamStatus.NOT_AVAILABLE for parameter in sharded))

        block.register_forward_pre_hook(look)
    return found


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gathered values of a sharded parameter."""
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")])
