"""The parts of a run of ``pretrain`` or ``distill``: its clips and teachers, and the student with what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
from mvd_ds.models.text.own_files import text_files
from mvd_ds.models.weights import save_model
from mvd_ds.runs.caching.match import require_match
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.runs.pictures import TrainingPictures, plan_pictures, read_clips
from mvd_ds.runs.placing import place_teachers
from mvd_ds.runs.probing.online_probe import OnlineProbe, plan_online_probe
from mvd_ds.runs.student import plan_predictor, recipe_flops
from mvd_ds.runs.tokenizers.matching import require_own_tokenizers
from mvd_ds.runs.trainer import Trainer, describe_batches, describe_parameters
from mvd_ds.training.cached_targets import CachedTargets
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.engine.deepspeed_start import start_student
from mvd_ds.training.language import CaptionLoss
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.optim import group_rows, parameter_groups
from mvd_ds.training.protocols import Loader
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets


class Frozen(NamedTuple):
    """The parts of a run that do not learn: its clips, and what makes the targets of a student's recipe."""

    loader: Loader
    targets: Callable[[TrainingRecipe], TargetSource]
    """Places the teachers; called after the states are loaded, which take most memory."""
    flops: float
    """Operations of a training step per clip, of all that is trained on it."""


class Planned(NamedTuple):
    """A student, its pictures and its probe, every file of theirs looked at, before it takes memory."""

    recipe: TrainingRecipe
    student: Blueprint[MaskedPredictor]
    pictures: Any
    probe: Any


def build_trainer(recipe: TrainingRecipe, folder: RunFolder, cluster: Cluster) -> Trainer:
    """Look at every file, say what will happen, and start the engine. Collective.

    Raises:
        ConfigError: for whatever the user can mend; on every rank.
    """
    with cluster.together():
        given = cached_types(recipe, folder, cluster.is_main)
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world, pin=cluster.device.type == "cuda")
        # Every file is looked at before anything takes memory; teachers do so last, when the optimizer's states are loaded.
        teachers = plan_teachers(recipe, folder, cluster.is_main)
        planned = plan_student(recipe)
    if cluster.is_main:
        say(describe_batches(recipe, cluster, loader))
        for line in loader.describe(recipe.schedule.last_step(loader.steps_per_epoch)):
            say(line)
        describe_teachers(recipe)
    frozen = Frozen(loader, lambda own: make_targets(own, teachers, cluster, given), recipe_flops(recipe).training)
    return start_trainer(planned, folder, cluster, frozen)


def plan_teachers(recipe: TrainingRecipe, folder: RunFolder, compares: bool) -> dict[str, Blueprint[Teacher]]:
    """Return plans of all teachers that are asked, by name.

    Args:
        recipe: the run.
        folder: its folder, which keeps digests.
        compares: refuse codes of other teachers; one rank that does is enough.

    Raises:
        ConfigError: if the weights of one cannot be read, or do not fit.
    """
    teachers = {key: plan_teacher(key, settings, recipe) for key, settings in recipe.asked_teachers.items()}
    if compares:
        require_own_tokenizers(recipe, folder.digests)
    return teachers


def plan_student(recipe: TrainingRecipe) -> Planned:
    """Return what is trained by a recipe, and what it shows while it trains.

    Raises:
        ConfigError: for whatever the user can mend.
    """
    text_files(recipe.language)  # read now, for the model folder at the end
    return Planned(recipe, plan_predictor(recipe), plan_pictures(recipe), plan_online_probe(recipe))


def start_trainer(planned: Planned, folder: RunFolder, cluster: Cluster, frozen: Frozen, label: str = "") -> Trainer:
    """Start the engine of a student, and say what it is. Collective.

    Raises:
        ConfigError: in one line, if its engine's JSON does not fit; on every rank.
    """
    recipe, student, loader = planned.recipe, planned.student, frozen.loader
    groups = parameter_groups(student.structure, recipe.optimizer)
    if cluster.is_main:
        say(label + describe_parameters(recipe, cluster, student.structure, groups))
    rows, memory = group_rows(groups), MemoryMonitor(cluster)
    engine = start_student(student, groups, recipe, cluster)
    if wants_compiling(recipe.engine.compile, cluster.device):
        compile_blocks(engine.module, "student")

    ema = Ema(engine, recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end)

    def objective() -> tuple[MaskedPrediction, dict[str, Any]]:
        targets, language = frozen.targets(recipe), recipe.language
        for name in [name for name, teacher in recipe.asked_teachers.items() if teacher.is_ema]:
            ema.follow(getattr(targets, "teachers", {})[name], name)
        captions = CaptionLoss(language, cluster.gather_tensor, cluster.rank) if language is not None else None
        return MaskedPrediction(recipe, engine, targets, cluster.device, captions), getattr(targets, "teachers", {})

    def export(weights: dict[str, Tensor], average: dict[str, Tensor] | None, step: int, statistics: dict[str, Tensor]) -> None:
        save_model(folder.model, weights, recipe, {"step": step}, average, statistics)

    pictures = None
    if planned.pictures is not None:
        last_step = recipe.schedule.last_step(loader.steps_per_epoch)
        pictures = TrainingPictures(recipe, folder, cluster, engine, planned.pictures, last_step)
    probe = OnlineProbe(recipe, engine, cluster, *planned.probe) if planned.probe is not None else None
    return Trainer(
        recipe, folder, cluster, loader, engine, ema, objective, frozen.flops, export, memory, probe, pictures, rows, label
    )


def describe_teachers(recipe: TrainingRecipe) -> None:
    """Say what every teacher is."""
    for name in recipe.teachers if recipe.targets.cache is not None else ():
        say(f"teacher {name}: not loaded, what it gave is read from {recipe.targets.cache}")
    for name, teacher in recipe.asked_teachers.items():
        say(f"teacher {name}: {teacher.kind} {teacher.embed_dim} x {teacher.depth}, {teacher.placement}, from {teacher.weights}")


def make_targets(
    recipe: TrainingRecipe, teachers: dict[str, Blueprint[Teacher]], cluster: Cluster, given: dict[str, torch.dtype]
) -> TargetSource:
    """Return the source of a recipe's targets: its teachers, placed, what is cached of them, or pixels. Collective.

    Raises:
        ConfigError: on every rank, if a teacher cannot be placed as its settings say.
    """
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
