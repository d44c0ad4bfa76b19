"""``pretrain`` and ``distill``: both train a MaskedPredictor, they differ in who makes the targets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.flops import clip_flops
from mvd_ds.models.masked import MaskedPredictor, build_predictor
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.models.weights import save_model
from mvd_ds.runs.learning import Learner, describe_batches, describe_parameters, run_in_cluster
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.deepspeed_engine import DTYPES, start_student, start_teacher
from mvd_ds.training.ema import Ema
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.optim import parameter_groups
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets


def train(recipe: TrainingRecipe, name: str) -> int:
    """Train the recipe ``name`` to its end, from its newest checkpoint if there is one.

    Returns:
        Exit code of where it stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    return run_in_cluster(recipe, name, lambda folder, cluster: _train(recipe, folder, cluster))


def _train(recipe: TrainingRecipe, folder: RunFolder, cluster: Cluster) -> Learner:
    with cluster.together():
        pin = cluster.device.type == "cuda"
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world, pin=pin)
        teachers = {key: build_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
        student = build_predictor(recipe)
    groups = parameter_groups(student, recipe.optimizer)
    _describe(recipe, cluster, student, loader, groups)
    engine = start_student(student, groups, recipe, cluster)
    objective = MaskedPrediction(recipe, engine, _targets(recipe, teachers, cluster), cluster.device)

    def export(weights: dict[str, Tensor], average: dict[str, Tensor] | None, step: int) -> None:
        save_model(folder.model, weights, recipe, {"step": step}, average)

    ema = Ema(engine, recipe.optimizer.ema_decay)
    frozen = tuple(getattr(objective.targets, "teachers", {}).values())
    flops = clip_flops(recipe).training
    return Learner(recipe, folder, cluster, loader, engine, ema, objective, flops, export, frozen)


def _describe(
    recipe: TrainingRecipe, cluster: Cluster, student: MaskedPredictor, loader: ClipLoader, groups: list[dict[str, Any]]
) -> None:
    """What will happen, in a few sentences, before it does."""
    if not cluster.is_main:
        return
    say(describe_batches(recipe, cluster, loader))
    for name, teacher in recipe.teachers.items():
        say(f"teacher {name}: {teacher.kind} {teacher.embed_dim} x {teacher.depth}, {teacher.placement}, from {teacher.weights}")
    say(describe_parameters(recipe, cluster, student, groups))


def _targets(recipe: TrainingRecipe, teachers: dict[str, Teacher], cluster: Cluster) -> TargetSource:
    if not teachers:
        return PixelTargets(recipe)
    placed = {
        name: start_teacher(teacher, recipe.teachers[name].placement, recipe, cluster) for name, teacher in teachers.items()
    }
    return TeacherTargets(recipe, placed, DTYPES[recipe.engine.precision])
