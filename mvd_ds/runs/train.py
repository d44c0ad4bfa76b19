"""``pretrain`` and ``distill``: both train a MaskedPredictor, they differ in who makes the targets."""

from __future__ import annotations

from typing import Any

import torch

from mvd_ds.config import ConfigError, TrainingRecipe, to_yaml
from mvd_ds.data.loader import ClipLoader
from mvd_ds.models.flops import clip_flops
from mvd_ds.models.masked import MaskedPredictor, build_predictor
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.models.weights import save_model
from mvd_ds.training.checkpoint import Checkpoints
from mvd_ds.training.cluster import Cluster, launched_rank
from mvd_ds.training.console import StepProgress, clock, say
from mvd_ds.training.deepspeed_engine import DTYPES, full_weights, joined_cluster, start_student, start_teacher
from mvd_ds.training.ema import Ema
from mvd_ds.training.faults import VideoFaults
from mvd_ds.training.loop import Training
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.metrics import MetricsWriter
from mvd_ds.training.optim import describe_groups, parameter_groups
from mvd_ds.training.reporter import Reporter
from mvd_ds.training.run_folder import RunFolder, Status
from mvd_ds.training.schedule import build_schedule
from mvd_ds.training.step import PixelTargets, TargetSource, TeacherTargets


def train(recipe: TrainingRecipe, name: str) -> None:
    """Train the recipe ``name`` to its end, from its newest checkpoint if there is one.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    folder = RunFolder.of(recipe, name)
    if _is_finished(recipe, folder):
        return
    with joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster:
        torch.use_deterministic_algorithms(recipe.run.deterministic)
        _train(recipe, folder, cluster)


def _train(recipe: TrainingRecipe, folder: RunFolder, cluster: Cluster) -> None:
    with cluster.together():
        pin = cluster.device.type == "cuda"
        loader = ClipLoader(recipe, recipe.drop_path_blocks, cluster.rank, cluster.world, pin=pin)
        teachers = {key: build_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
        student = build_predictor(recipe)
    groups = parameter_groups(student, recipe.optimizer)
    _describe(recipe, cluster, student, loader, groups)
    engine = start_student(student, groups, recipe, cluster)
    objective = MaskedPrediction(recipe, engine, _targets(recipe, teachers, cluster), cluster.device)
    ema = Ema(engine, recipe.optimizer.ema_decay)
    checkpoints = Checkpoints(folder, recipe, cluster, engine, ema)
    resumed = checkpoints.load()
    first_step = resumed.step
    loader.restore(resumed.extra.get("loader", {}))
    with cluster.together():
        if cluster.is_main:
            folder.open(recipe)
    last_step = recipe.schedule.last_step(loader.steps_per_epoch)
    end = max(first_step, min(last_step, recipe.run.stop_after_steps or last_step))
    if first_step and cluster.is_main:
        say(f"resuming from the checkpoint of step {first_step}")
    status = Status(folder, last_step)
    writer = MetricsWriter(folder, cluster, first_step, to_yaml(recipe))
    progress = StepProgress(f"{recipe.command} {folder.path.name}", first_step, end, enabled=cluster.is_main)
    flops = clip_flops(recipe).training
    reporter = Reporter(recipe, cluster, objective.names, writer, progress, flops, first_step)
    reporter.health.watch(engine.module, *getattr(objective.targets, "teachers", {}).values())
    faults = VideoFaults(cluster, recipe.data.max_bad_share)
    schedule = build_schedule(recipe, loader.steps_per_epoch)
    training = Training(recipe, cluster, engine, ema, loader, objective, schedule, checkpoints, reporter, faults, status)
    try:
        training.run(first_step, end)
    finally:
        loader.close()
        reporter.close()
    _finish(recipe, cluster, folder, engine, ema, status, faults, end, last_step)


def _is_finished(recipe: TrainingRecipe, folder: RunFolder) -> bool:
    """Whether the run is at its end already; says so.

    Raises:
        ConfigError: if ``run.resume`` is never and the folder holds a run.
    """
    if recipe.run.resume == "never" and (folder.checkpoints / "latest").exists():
        raise ConfigError(f"run.resume never: {folder.path} holds a run; choose another run.output or remove it")
    finished = folder.is_finished(recipe, folder.model.name)
    if finished and launched_rank() == 0:
        say(f"{folder.path} is finished; nothing to do")
    return finished


def _describe(
    recipe: TrainingRecipe, cluster: Cluster, student: MaskedPredictor, loader: ClipLoader, groups: list[dict[str, Any]]
) -> None:
    """What will happen, in a few sentences, before it does."""
    if not cluster.is_main:
        return
    batch, masks = recipe.batch, recipe.masking.masks_per_clip
    peak, final = recipe.learning_rate
    accumulation = batch.accumulation_steps(cluster.world)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    say(
        f"{batch.micro} clips x {accumulation} accumulation x {cluster.world} processes = {batch.global_} clips a step, "
        f"{masks} mask{'s' * (masks > 1)} each; learning rate {peak:.3g} falling to {final:.3g} (counts "
        f"{recipe.optimizer.lr_counts}); {loader.steps_per_epoch} steps an epoch over {loader.clips_in_manifest} clips; "
        f"{recipe.schedule.last_step(loader.steps_per_epoch)} steps"
    )
    say(f"{parameters:,} trained parameters on {cluster.device.type}, {recipe.engine.precision}, {recipe.engine.config}")
    for name, teacher in recipe.teachers.items():
        say(f"teacher {name}: {teacher.kind} {teacher.embed_dim} x {teacher.depth}, {teacher.placement}, from {teacher.weights}")
    say(describe_groups(groups))


def _targets(recipe: TrainingRecipe, teachers: dict[str, Teacher], cluster: Cluster) -> TargetSource:
    if not teachers:
        return PixelTargets(recipe)
    placed = {
        name: start_teacher(teacher, recipe.teachers[name].placement, recipe, cluster) for name, teacher in teachers.items()
    }
    return TeacherTargets(recipe, placed, DTYPES[recipe.engine.precision])


def _finish(
    recipe: TrainingRecipe,
    cluster: Cluster,
    folder: RunFolder,
    engine: Any,
    ema: Ema,
    status: Status,
    faults: VideoFaults,
    step: int,
    last_step: int,
) -> None:
    """Export the weights, record the end, and name the videos that were replaced. Collective."""
    weights = full_weights(engine, cluster)
    average = ema.full_weights(cluster) if ema.active else None
    replaced = faults.merged()
    with cluster.together():
        if cluster.is_main:
            save_model(folder.model, weights, recipe, {"step": step}, average)
            status.write("finished" if step == last_step else "stopped", step, replaced_videos=replaced)
    if cluster.is_main:
        for fault, times in replaced.items():
            say(f"replaced {times} times: {fault}")
        say(f"step {step} of {last_step} in {clock(status.values['seconds'])}; weights in {folder.model}")
