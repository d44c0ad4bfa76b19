"""``bench step`` of a recipe of several students: a step of them all on one pass of the teachers, beside a step of each alone.

Every student has the networks, weights and clips of its step alone, and learning rate 0; no ratio is given unless losses and
gradient norms of the common step are those of the students alone.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor, recipe_flops, students_flops
from mvd_ds.tools.bench.clock import Clock
from mvd_ds.tools.bench.codebooks import with_random_codebooks
from mvd_ds.tools.bench.product_step import EngineStep, ProductStep
from mvd_ds.tools.bench.step import TOLERANCE, StepBenchOptions, bench_group, device_name, first_step, median_total, timed
from mvd_ds.tools.bench.step_variants import Variant, geometry_of, pinned, rank_batches, step_recipe
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.reporting.provenance import machine, versions
from mvd_ds.training.students.shared import SharedTargets, TeacherPass, view_of

TOGETHER = "together"
"""Name of the common step."""


class Student(NamedTuple):
    """A student: its recipe, its step alone, and its objective on the common pass."""

    recipe: TrainingRecipe
    step: Any
    objective: MaskedPrediction


class TogetherStep:
    """The step of several students, one after the other on each micro batch, as ``distill`` trains them.

    Args:
        recipes: of the students alone, by name.
        steps: their steps alone, whose networks, optimizers and teachers this one takes; the first's teachers are asked.
        device: of the networks.
    """

    def __init__(self, recipes: dict[str, TrainingRecipe], steps: dict[str, Any], device: torch.device) -> None:
        self.first, self.device = next(iter(steps.values())), device
        shared = TeacherPass(self.first.objective.targets)
        self.students = {
            name: Student(recipes[name], step, _objective(recipes[name], step, shared, device)) for name, step in steps.items()
        }

    def loss(self, batch: ClipBatch, clock: Clock) -> Tensor:
        """Return the sum of the losses; every student's backward pass follows its loss, before the next one begins."""
        self.first.clock = clock
        batch = to_device(batch, self.device)
        batch = batch._replace(place=batch.place.clone())  # of a batch that comes a second time the teachers are asked again
        total = torch.zeros((), device=self.device)
        for student in self.students.values():
            loss = student.objective(view_of(student.recipe.drop_path_blocks)(batch), measure=False).total
            clock.mark("student")
            student.step.backward(loss)
            clock.mark("backward")
            total = total + loss.detach()
        return total

    def backward(self, loss: Tensor) -> None:
        """Do nothing: gradients are there."""

    def update(self) -> None:
        """Run every student's optimizer."""
        for student in self.students.values():
            student.step.update()

    def first_update(self) -> float:
        """Run ``update``, and return the L2 norm of the gradients of all students before it."""
        return math.hypot(*(student.step.first_update() for student in self.students.values()))

    def held_bytes(self) -> int:
        """Return the bytes that are held before a step; teachers, which the steps alone share in fp32, count for each."""
        return sum(student.step.held_bytes() for student in self.students.values())


def _objective(recipe: TrainingRecipe, step: Any, shared: TeacherPass, device: torch.device) -> MaskedPrediction:
    return MaskedPrediction(recipe, step.objective.student, SharedTargets(recipe, shared), device)


def measure_students(name: str, overrides: list[str], options: StepBenchOptions) -> dict[str, Any]:
    """Measure the common step and the steps alone in turns, and return the results as JSON values.

    Raises:
        ConfigError: for a faulty setting, or students with processes of their own.
    """
    with bench_group(options.device) as cluster, tempfile.TemporaryDirectory() as folder:
        with cluster.together():
            recipe = step_recipe(name, overrides, options.geometry, cluster.device, cluster.world)
            require_common_processes(recipe)
            recipe = with_random_codebooks(recipe, Path(folder))
        return _measure(recipe, name, options, cluster)


def require_common_processes(recipe: TrainingRecipe) -> None:
    """Refuse students with processes of their own, of which no step is measured.

    Raises:
        ConfigError: naming the first.
    """
    for key, student in recipe.students.items():
        if student.ranks is not None:
            raise ConfigError(
                f"students.{key}.ranks {student.ranks}: the step that is measured is of students that share every process; add "
                f"students.{key}.ranks=null, or ask `mvd_ds plan`, which counts ranks"
            )


def _measure(recipe: TrainingRecipe, name: str, options: StepBenchOptions, cluster: Cluster) -> dict[str, Any]:
    origin = {"machine": machine(), "versions": versions()}
    recipes = {student: recipe.student(student) for student in recipe.students}
    variants = build_students(recipes, cluster)
    found = {key: first_step(variant, cluster) for key, variant in variants.items()}
    worst = _worst(found)
    samples, _ = timed(variants, options, cluster)
    rows = {key: _row(samples[key], recipe) for key in variants}
    alone = sum(rows[key]["step_ms"] for key in recipes)
    return {
        "command": "bench step",
        "recipe": name,
        "label": f"{f'{cluster.world} x ' if cluster.world > 1 else ''}{device_name(cluster.device)}, {recipe.engine.precision}",
        "processes": cluster.world,
        "options": options._asdict() | {"profile": None},
        "geometry": {key: geometry_of(own) for key, own in recipes.items()},
        "gflops_per_clip": {key: recipe_flops(own).training / 1e9 for key, own in recipes.items()}
        | {TOGETHER: students_flops(list(recipes.values())) / 1e9},
        "gate": {"equal": worst <= TOLERANCE[recipe.engine.precision], "worst_relative_difference": worst},
        "students": rows,
        "time_over_alone": rows[TOGETHER]["step_ms"] / alone,
        "operations_over_alone": students_flops(list(recipes.values())) / sum(recipe_flops(r).training for r in recipes.values()),
        **origin,
    }


def build_students(recipes: dict[str, TrainingRecipe], cluster: Cluster) -> dict[str, Variant]:
    """Return the steps of the students alone by name, and the common one; under an engine where there are several processes."""
    device = cluster.device
    steps: dict[str, Any] = {}
    for name, recipe in recipes.items():
        if cluster.world > 1:
            steps[name] = EngineStep(recipe, cluster)
        else:
            teachers = {key: build_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
            steps[name] = ProductStep(recipe, build_predictor(recipe), teachers, device)
    deepest = max(recipes.values(), key=lambda recipe: recipe.drop_path_blocks)
    batches = {name: rank_batches(recipe, cluster.rank) for name, recipe in {**recipes, TOGETHER: deepest}.items()}
    masks = deepest.masks_per_clip
    every = {**steps, TOGETHER: TogetherStep(recipes, steps, device)}
    return {name: Variant(step, [pinned(batch, device) for batch in batches[name]], masks) for name, step in every.items()}


def _worst(found: dict[str, tuple[float, float]]) -> float:
    """Return the largest relative difference of the common loss and gradient norm from those of the students alone."""
    alone = [numbers for key, numbers in found.items() if key != TOGETHER]
    expected = sum(loss for loss, _ in alone), math.hypot(*(norm for _, norm in alone))
    return max(abs(a - b) / abs(b) for a, b in zip(found[TOGETHER], expected, strict=True))


def _row(samples: list[dict[str, float]], recipe: TrainingRecipe) -> dict[str, Any]:
    totals, milliseconds = [sum(parts.values()) for parts in samples], median_total(samples)
    return {
        "step_ms": milliseconds,
        "step_ms_least_and_most": [min(totals), max(totals)],
        "steps": len(totals),
        "clips_per_second": 1e3 * recipe.batch.global_ / milliseconds,
    }
