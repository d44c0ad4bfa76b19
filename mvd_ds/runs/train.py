"""``pretrain`` and ``distill``: both train a MaskedPredictor, they differ in who makes the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import ClipView, TrainingRecipe
from mvd_ds.data.cached.index import read_index
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.acceleration.compiled import compile_blocks, wants_compiling
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import Teacher, plan_teacher
from mvd_ds.models.weights import save_model
from mvd_ds.runs.caching.match import require_match
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.runs.pictures import TrainingPictures, plan_pictures, read_clips
from mvd_ds.runs.placing import place_teachers
from mvd_ds.runs.probing.online_probe import OnlineProbe, plan_online_probe
from mvd_ds.runs.student import plan_predictor, recipe_flops
from mvd_ds.runs.tokenizers.matching import require_own_tokenizers
from mvd_ds.runs.trainer import Trainer, describe_batches, describe_parameters, run_in_cluster
from mvd_ds.training.cached_targets import CachedTargets
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.engine.deepspeed_start import start_student
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.optim import group_rows, parameter_groups
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets


def train(recipe: TrainingRecipe, name: str) -> int:
    """Train the recipe ``name`` to its end, from its newest checkpoint if there is one.

    Returns:
        Exit code of where it stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    return run_in_cluster(recipe, name, lambda folder, cluster: build_trainer(recipe, folder, cluster))


def build_trainer(recipe: TrainingRecipe, folder: RunFolder, cluster: Cluster) -> Trainer:
    """Look at every file, say what will happen, and start the engine. Collective.

    Raises:
        ConfigError: for whatever the user can mend; on every rank.
    """
    with cluster.together():
        pin = cluster.device.type == "cuda"
        given = cached_types(recipe, folder, cluster.is_main)
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world, pin=pin)
        # Every file is looked at before anything takes memory; teachers do so last, when the optimizer's states are loaded.
        teachers = {key: plan_teacher(key, settings, recipe) for key, settings in recipe.asked_teachers.items()}
        student = plan_predictor(recipe)
        if cluster.is_main:
            require_own_tokenizers(recipe, folder.digests)
        looked_at = plan_pictures(recipe)
        probed = plan_online_probe(recipe)
    groups = parameter_groups(student.structure, recipe.optimizer)
    _describe(recipe, cluster, student.structure, loader, groups)
    rows, memory = group_rows(groups), MemoryMonitor(cluster)
    engine = start_student(student, groups, recipe, cluster)
    if wants_compiling(recipe.engine.compile, cluster.device):
        compile_blocks(engine.module, "student")

    def objective() -> tuple[MaskedPrediction, dict[str, Any]]:
        targets = _targets(recipe, teachers, cluster, given)
        return MaskedPrediction(recipe, engine, targets, cluster.device), getattr(targets, "teachers", {})

    def export(weights: dict[str, Tensor], average: dict[str, Tensor] | None, step: int, statistics: dict[str, Tensor]) -> None:
        save_model(folder.model, weights, recipe, {"step": step}, average, statistics)

    ema = Ema(engine, recipe.optimizer.ema_decay)
    flops = recipe_flops(recipe).training
    pictures = None
    if looked_at is not None:
        last_step = recipe.schedule.last_step(loader.steps_per_epoch)
        pictures = TrainingPictures(recipe, folder, cluster, engine, looked_at, last_step)
    probe = OnlineProbe(recipe, engine, cluster, *probed) if probed is not None else None
    return Trainer(recipe, folder, cluster, loader, engine, ema, objective, flops, export, memory, probe, pictures, rows)


def _describe(
    recipe: TrainingRecipe, cluster: Cluster, student: MaskedPredictor, loader: ClipLoader, groups: list[dict[str, Any]]
) -> None:
    """Say what is about to be trained, in a few sentences."""
    if not cluster.is_main:
        return
    say(describe_batches(recipe, cluster, loader))
    for name in recipe.teachers if recipe.targets.cache is not None else ():
        say(f"teacher {name}: not loaded, what it gave is read from {recipe.targets.cache}")
    for name, teacher in recipe.asked_teachers.items():
        say(f"teacher {name}: {teacher.kind} {teacher.embed_dim} x {teacher.depth}, {teacher.placement}, from {teacher.weights}")
    say(describe_parameters(recipe, cluster, student, groups))


def _targets(
    recipe: TrainingRecipe, teachers: dict[str, Blueprint[Teacher]], cluster: Cluster, given: dict[str, torch.dtype]
) -> TargetSource:
    if recipe.targets.cache is not None:
        return CachedTargets(recipe, given, device_masks(recipe))
    return ask_teachers(recipe, teachers, cluster) if teachers else PixelTargets(recipe, device_masks(recipe))


def ask_teachers(recipe: TrainingRecipe, teachers: dict[str, Blueprint[Teacher]], cluster: Cluster) -> TeacherTargets:
    """Return the source of targets that asks the teachers of a recipe, placed and accelerated. Collective.

    Raises:
        ConfigError: on every rank, if a teacher cannot be placed as its settings say.
    """

    def some_clips() -> dict[ClipView, Tensor]:
        manifest = read_mixture(recipe.data).manifests[0]
        return read_clips(recipe, manifest, range(min(recipe.run.picture_clips, len(manifest.refs))))[0]

    placed = place_teachers(recipe, teachers, cluster, some_clips)
    return TeacherTargets(recipe, placed, DTYPES[recipe.engine.precision], device_masks(recipe))


def cached_types(recipe: TrainingRecipe, folder: RunFolder, compares: bool) -> dict[str, torch.dtype]:
    """Return the type of every cached output by name; none where nothing is cached.

    Args:
        recipe: the run.
        folder: its folder, which keeps digests.
        compares: refuse a cache that holds other targets than the recipe's; one rank that does is enough.

    Raises:
        ConfigError: in one line with the differences, or if the cache is not whole.
    """
    if recipe.targets.cache is None:
        return {}
    index = read_index(Path(recipe.targets.cache))
    if compares:
        require_match(recipe, index, contents_with_videos(recipe, folder.digests), read_mixture(recipe.data))
    return {name: getattr(torch, output.given) for name, output in index.outputs.items()}
