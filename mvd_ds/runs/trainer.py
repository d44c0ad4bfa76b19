"""The part that all training runs share: begin or resume, train, export. ``train`` and ``finetune`` build the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, LearningRecipe, TrainingRecipe, dump, leaves, to_yaml
from mvd_ds.data.loader import ClipLoader
from mvd_ds.objectives.moving_statistics import load_statistics, statistics_state
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.runs.results_folder import require_no_results
from mvd_ds.training.calibration import calibrate
from mvd_ds.training.checkpoint.checkpoint import Checkpoints, Resumed
from mvd_ds.training.cluster import Cluster, launched_rank
from mvd_ds.training.console import StepProgress, clock, say
from mvd_ds.training.contents import Contents, is_finished
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import full_weights, joined_cluster, save_shards
from mvd_ds.training.engine.elasticity import leave_out_surplus
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.faults import VideoFaults
from mvd_ds.training.liveness.attempt import Attempt, attempt_of
from mvd_ds.training.liveness.launcher import LauncherWatch
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.loop import Training
from mvd_ds.training.nonfinite.finite import NonFiniteSteps
from mvd_ds.training.optim import describe_groups
from mvd_ds.training.protocols import Objective, Pictures, Validation
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.reporting.provenance import write_provenance
from mvd_ds.training.reporting.reporter import Reporter
from mvd_ds.training.reporting.writers.table import require_writers
from mvd_ds.training.run_folder import EXIT_CODES, FINISHED, RunFolder, Status
from mvd_ds.training.schedule import build_schedule


@dataclass
class Trainer:
    """The parts of a training run, ready to start."""

    recipe: LearningRecipe
    folder: RunFolder
    cluster: Cluster
    loader: ClipLoader
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


def run_in_cluster(recipe: LearningRecipe, name: str, build: Callable[[RunFolder, Cluster], Trainer]) -> int:
    """Train what ``build`` gives in the processes of the launcher, unless the folder of recipe ``name`` holds the finished run.

    Returns:
        Exit code of where the run stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    folder = RunFolder.of(recipe, name)
    if _is_finished(recipe, folder):
        return FINISHED
    require_writers(recipe.run.writers)
    leave_out_surplus(recipe.batch)
    stop = StopRequests()
    with (
        LauncherWatch(stop, speaks=launched_rank() == 0),
        joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster,
        stop,  # from here on; a process that still waits for the others ends at a signal as any does
    ):
        torch.use_deterministic_algorithms(recipe.run.deterministic)
        trainer = build(folder, cluster)
        last_step = recipe.schedule.last_step(trainer.loader.steps_per_epoch)
        with attempt_of(recipe, folder, cluster, stop, last_step) as attempt:
            with cluster.together():
                read = contents_with_videos(recipe, folder.digests) if cluster.is_main else None
            contents: Contents = cluster.broadcast(read)
            write_provenance(folder, attempt.number, recipe, cluster, trainer.engine.config, contents, trainer.groups)
            _train(trainer, attempt, contents)
            return EXIT_CODES[cluster.broadcast(attempt.status.values["state"])]


def fail_in_cluster(recipe: LearningRecipe, fault: ConfigError) -> NoReturn:
    """Raise on every rank what this rank met before it joined the others, who may have met nothing: rank 0 speaks for all.

    Raises:
        ConfigError: the fault.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster, cluster.together():
            raise fault
    raise fault


def _train(trainer: Trainer, attempt: Attempt, contents: Contents) -> None:
    """Train to the end of the schedule, from the newest checkpoint if there is one, and export. Collective."""
    recipe, folder, cluster = trainer.recipe, trainer.folder, trainer.cluster
    checkpoints = Checkpoints(folder, recipe, cluster, trainer.engine, trainer.ema, save_shards, contents)
    attempt.stop.save_seconds = lambda: checkpoints.last_save_seconds or 0.0
    trainer.memory.watch(trainer.engine)
    trainer.memory.mark("build")
    attempt.heartbeat.at("resuming", tell=True)
    resumed = checkpoints.load()
    first_step = resumed.step
    attempt.heartbeat.at("ready", first_step, tell=True)
    trainer.loader.restore(resumed.extra.get("loader", {}))
    objective, frozen = trainer.objective()
    begin_statistics(trainer, objective, resumed, attempt.heartbeat.at)
    checkpoints.statistics = lambda: statistics_state(objective.statistics)
    trainer.memory.watch(trainer.engine, frozen)
    trainer.memory.mark("resume" if first_step else "build")
    with cluster.together():
        if cluster.is_main:
            folder.open(recipe, contents)
    last_step = recipe.schedule.last_step(trainer.loader.steps_per_epoch)
    end = max(first_step, min(last_step, recipe.run.stop_after_steps or last_step))
    if first_step and cluster.is_main:
        beyond = f", past the end of the schedule at step {last_step}" if first_step > last_step else ""
        say(f"resuming from the checkpoint of step {first_step}{beyond}")
    if trainer.validation is not None:
        trainer.validation.resume(first_step)
        trainer.validation.alive = lambda: attempt.heartbeat.at("validating")
    reporter = _reporter(trainer, objective.names, first_step, end)
    reporter.health.watch(trainer.engine.module, *frozen.values())
    training = _training(trainer, attempt, checkpoints, objective, reporter)
    try:
        stopped = training.run(first_step, end)
    finally:
        trainer.loader.close()
        reporter.close()
    if stopped.reason is not None:
        attempt.preempted(stopped.step, stopped.reason)
        return
    require_an_update(trainer.engine, end)
    attempt.heartbeat.at("exporting", tell=True)
    _finish(trainer, attempt.status, training, end, last_step)


def begin_statistics(trainer: Trainer, objective: Objective, resumed: Resumed, alive: Callable[[str], None]) -> None:
    """Take the statistics of targets up where the checkpoint has them, or estimate them over the first clips. Collective.

    Args:
        resumed: what the checkpoint held; of step 0 where there is none.
        alive: called for every batch of the calibration, which is no hang.

    Raises:
        ConfigError: on every rank, if the checkpoint has other statistics, or the clips are too few.
    """
    cluster, recipe = trainer.cluster, trainer.recipe
    if resumed.step:
        load_statistics(objective.statistics, resumed.statistics, f"{trainer.folder.checkpoints}, step {resumed.step}")
        return

    def batches() -> Iterator[Any]:
        assert isinstance(recipe, TrainingRecipe)
        for batch in trainer.loader.batches(0, -(-recipe.calibration_clips // recipe.batch.global_)):
            alive("calibrating")
            yield batch

    calibrate(objective, batches, cluster)


def _reporter(trainer: Trainer, losses: tuple[str, ...], first_step: int, end: int) -> Reporter:
    """Return the reporter of the steps from ``first_step`` to ``end``. Collective."""
    recipe, folder, cluster = trainer.recipe, trainer.folder, trainer.cluster
    with cluster.together():
        writer = MetricsWriter(folder, cluster, first_step, to_yaml(recipe), recipe.run.writers)
    writer.describe(losses, compared_settings(recipe), relative=recipe.command != "finetune")
    progress = StepProgress(f"{recipe.command} {folder.path.name}", first_step, end, enabled=cluster.is_main)
    per_epoch = trainer.loader.steps_per_epoch
    return Reporter(recipe, cluster, losses, writer, progress, trainer.flops_per_clip, first_step, trainer.memory, per_epoch)


def _training(trainer: Trainer, attempt: Attempt, checkpoints: Checkpoints, objective: Objective, reporter: Reporter) -> Training:
    """Return the loop over the trainer's parts; from here on a gate stands before its optimizer."""
    recipe, cluster, loader = trainer.recipe, trainer.cluster, trainer.loader
    gate = UpdateGate(trainer.engine)
    videos = None if recipe.data.sources else loader.clips_in_manifest // recipe.data.clips_per_video
    return Training(
        recipe=recipe,
        cluster=cluster,
        engine=trainer.engine,
        gate=gate,
        ema=trainer.ema,
        loader=loader,
        objective=objective,
        schedule=build_schedule(recipe, loader.steps_per_epoch),
        checkpoints=checkpoints,
        reporter=reporter,
        faults=VideoFaults(cluster, recipe.data.max_bad_share, videos),
        nonfinite=NonFiniteSteps(recipe, trainer.folder, cluster, trainer.engine, gate, objective, loader, full_weights),
        attempt=attempt,
        validation=trainer.validation,
        pictures=trainer.pictures,
    )


def compared_settings(recipe: LearningRecipe) -> dict[str, str | float | bool]:
    """Return every setting as one value under its dotted name, as a table of hyper-parameters takes them."""
    values = leaves(dump(recipe)).items()
    return {key: value if isinstance(value, str | float | int | bool) else str(value) for key, value in values}


def describe_batches(recipe: LearningRecipe, cluster: Cluster, loader: ClipLoader) -> str:
    """Return batches, learning rate and length in a sentence."""
    batch, masks = recipe.batch, recipe.masks_per_clip
    peak, final = recipe.learning_rate
    each = f", {masks} mask{'s' * (masks > 1)} each" if recipe.command in ("pretrain", "distill") else ""
    return (
        f"{batch.micro} clips x {batch.accumulation_steps(cluster.world)} accumulation x {cluster.world} processes = "
        f"{batch.global_} clips a step{each}; learning rate {peak:.3g} falling to {final:.3g} (counts "
        f"{recipe.optimizer.lr_counts}); {loader.steps_per_epoch} steps an epoch over {loader.clips_in_manifest} clips; "
        f"{recipe.schedule.last_step(loader.steps_per_epoch)} steps"
    )


def describe_parameters(recipe: LearningRecipe, cluster: Cluster, model: torch.nn.Module, groups: list[dict[str, Any]]) -> str:
    """Return a line on what is trained, where and how."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    where = f"on {cluster.device.type}, {recipe.engine.precision}, {recipe.engine.config}"
    return f"{parameters:,} trained parameters {where}; {describe_groups(groups)}"


def require_an_update(engine: Engine, steps: int) -> None:
    """Refuse to call a run finished whose weights are those that it began with.

    Raises:
        ConfigError: on every rank, if none of the ``steps`` of the run was applied.
    """
    if steps and engine.skipped_steps >= steps:
        raise ConfigError(
            f"none of {steps} steps was applied, each loss or gradient was not finite: nothing was learnt, and no model is "
            "written. Mend what the lines above name, and begin in another run.output"
        )


def _is_finished(recipe: LearningRecipe, folder: RunFolder) -> bool:
    """Return whether the run is at its end already, and say so.

    Raises:
        ConfigError: if ``run.resume`` is never and the folder holds a run, or if it holds results of another command.
    """
    require_no_results(folder, recipe)
    if recipe.run.resume == "never" and (folder.checkpoints / "latest").exists():
        raise ConfigError(f"run.resume never: {folder.path} holds a run; choose another run.output or remove it")
    finished = is_finished(folder, recipe, folder.model.name, contents_with_videos)
    if finished and launched_rank() == 0:
        say(f"{folder.path} is finished; nothing to do")
    return finished


def _finish(trainer: Trainer, status: Status, training: Training, step: int, last_step: int) -> None:
    """Export the weights, record the end, and name the videos that were replaced. Collective."""
    cluster, folder = trainer.cluster, trainer.folder
    weights = full_weights(trainer.engine, cluster)
    average = trainer.ema.full_weights(cluster, full_weights) if trainer.ema.active else None
    replaced = training.faults.merged()
    with cluster.together():
        if cluster.is_main:
            trainer.export(weights, average, step, statistics_state(training.objective.statistics))
            status.write("finished" if step >= last_step else "stopped", step, replaced_videos=replaced)
    if cluster.is_main:
        for fault, times in replaced.items():
            say(f"replaced {times} times: {fault}")
        say(f"step {step} of {max(step, last_step)} in {clock(status.values['seconds'])}; weights in {folder.model}")
