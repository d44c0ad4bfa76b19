"""Clips/s of a distillation that asks its teachers beside one that reads from disk what they gave of the same views.

    python tests/benchmarks/cached_targets.py RECIPE FOLDER [key=value ...] [--steps N] [--rounds N]

Both run in this process, on one thread, in turns (live, cached, cached, live). Seconds are those of the CPU, of which other
programs take none. A step is read from videos, computed forward and backward, and applied by AdamW; students begin at random, and
teachers are what the recipe says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.data.cached.index import read_index
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.building import cached_types
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.runs.student import build_predictor, recipe_flops
from mvd_ds.training.cached_targets import CachedTargets
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import TargetSource, TeacherTargets


def main() -> None:
    """Measure, and print one object of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path, help="an empty folder for the cache")
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of live, cached, cached, live")
    parser.add_argument("--warmup", type=int, default=1, help="turns of each before any is timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cached = _recipe(options.recipe, [*options.overrides, f"targets.cache={options.folder}"])
    live = _recipe(options.recipe, [*options.overrides, f"targets.crops={cached.targets.fixed_crops}"])
    started = time.process_time()
    cache_targets(cached, options.recipe)
    filling = time.process_time() - started
    teachers = {name: build_teacher(name, settings, live) for name, settings in live.teachers.items()}
    given = cached_types(cached, RunFolder(options.folder), True)
    steps = {
        "live": _stepper(live, TeacherTargets(live, teachers, torch.float32, device_masks(live))),
        "cached": _stepper(cached, CachedTargets(cached, given, device_masks(cached))),
    }
    turns: dict[str, list[tuple[float, float, float]]] = {"live": [], "cached": []}
    for name in ["live", "cached"] * options.warmup + ["live", "cached", "cached", "live"] * options.rounds:
        turns[name] += [steps[name]() for _ in range(options.steps)]
    timed = {name: found[options.warmup * options.steps :] for name, found in turns.items()}
    whole = {name: statistics.median(read + rest for _, read, rest in found) for name, found in timed.items()}
    arithmetic = {name: statistics.median(rest for _, _, rest in found) for name, found in timed.items()}
    flops = {"live": recipe_flops(live).training, "cached": recipe_flops(cached).training}
    index = read_index(options.folder)
    result = {
        "losses_are_equal": [loss for loss, _, _ in turns["live"]] == [loss for loss, _, _ in turns["cached"]],
        "steps_of_each": len(timed["live"]),
        "clips_per_second": {name: live.batch.micro / seconds for name, seconds in whole.items()},
        "ratio": whole["live"] / whole["cached"],
        "ratio_without_reading": arithmetic["live"] / arithmetic["cached"],
        "ratio_of_flops": flops["live"] / flops["cached"],
        "gflops_per_clip": {name: count / 1e9 for name, count in flops.items()},
        "clip_bytes": index.clip_bytes,
        "filling_clips_per_second": index.clips / filling,
    }
    print(json.dumps(result, indent=2))


def _recipe(name: str, overrides: list[str]) -> TrainingRecipe:
    recipe = load_recipe(name, ["engine.precision=fp32", "targets.store=fp32", "data.workers=0", *overrides], "distill")
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def _stepper(recipe: TrainingRecipe, targets: TargetSource) -> Callable[[], tuple[float, float, float]]:
    """Return a function that does the next step: its loss, the CPU seconds of reading, and those of everything else."""
    loader = ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    batches = loader.batches(0, 10**6)
    student = build_predictor(recipe)
    objective = MaskedPrediction(recipe, student, targets, torch.device("cpu"))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)

    def step() -> tuple[float, float, float]:
        started = time.process_time()
        batch = next(batches)
        read = time.process_time()
        loss = objective(batch, measure=False).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach()), read - started, time.process_time() - read

    return step


if __name__ == "__main__":
    main()
