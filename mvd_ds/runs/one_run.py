"""One training run in the processes that run it: its states are loaded, it is made ready, trained and finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mvd_ds.config import LearningRecipe, TrainingRecipe, dump, leaves, to_yaml
from mvd_ds.objectives.moving_statistics import load_statistics, statistics_state
from mvd_ds.runs.trainer import Trainer
from mvd_ds.training.calibration import calibrate
from mvd_ds.training.checkpoint.checkpoint import Checkpoints, Resumed
from mvd_ds.training.console import StepProgress, clock, say
from mvd_ds.training.contents import Contents
from mvd_ds.training.ending import Diverged
from mvd_ds.training.engine.deepspeed_engine import full_weights, save_shards
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.faults import VideoFaults
from mvd_ds.training.liveness.attempt import Attempt
from mvd_ds.training.loop import Stopped, Training
from mvd_ds.training.nonfinite.finite import NonFiniteSteps
from mvd_ds.training.protocols import Objective
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.reporting.provenance import write_provenance
from mvd_ds.training.reporting.reporter import Reporter
from mvd_ds.training.schedule import build_schedule


class OneRun:
    """A run between the start of its engine and its last line; the methods are called in their order, on all ranks.

    Attributes:
        first_step: optimizer steps done before, once it is loaded.
        end: optimizer step at which this attempt ends.
        training: the loop, once it is ready.
    """

    training: Training

    def __init__(self, trainer: Trainer, attempt: Attempt, contents: Contents) -> None:
        """Keep the parts, and write where they come from. Collective."""
        self.trainer, self.attempt, self.contents = trainer, attempt, contents
        recipe, folder, cluster = trainer.recipe, trainer.folder, trainer.cluster
        write_provenance(folder, attempt.number, recipe, cluster, trainer.engine.config, contents, trainer.groups)
        self.checkpoints = Checkpoints(folder, recipe, cluster, trainer.engine, trainer.ema, save_shards, contents)
        attempt.stop.save_seconds = lambda: self.checkpoints.last_save_seconds or 0.0

    def load(self) -> None:
        """Load the states of the newest checkpoint, if there is one, before frozen networks take memory. Collective."""
        trainer, attempt = self.trainer, self.attempt
        trainer.memory.watch(trainer.engine)
        trainer.memory.mark("build")
        attempt.heartbeat.at("resuming", tell=True)
        self.resumed = self.checkpoints.load()
        self.first_step = self.resumed.step
        attempt.heartbeat.at("ready", self.first_step, tell=True)
        self.last_step = trainer.recipe.schedule.last_step(trainer.loader.steps_per_epoch)
        self.end = max(self.first_step, min(self.last_step, trainer.recipe.run.stop_after_steps or self.last_step))

    def make_ready(self) -> None:
        """Make the objective and the loop over all parts, and open the folder. Collective."""
        trainer, attempt, first_step = self.trainer, self.attempt, self.first_step
        recipe, folder, cluster = trainer.recipe, trainer.folder, trainer.cluster
        trainer.loader.restore(self.resumed.extra.get("loader", {}))
        objective, frozen = trainer.objective()
        begin_statistics(trainer, objective, self.resumed, attempt.heartbeat.at)
        self.checkpoints.statistics = lambda: statistics_state(objective.statistics)
        trainer.memory.watch(trainer.engine, frozen)
        trainer.memory.mark("resume" if first_step else "build")
        with cluster.together():
            if cluster.is_main:
                folder.open(recipe, self.contents)
        if first_step and cluster.is_main:
            beyond = f", past the end of the schedule at step {self.last_step}" if first_step > self.last_step else ""
            say(f"{trainer.label}resuming from the checkpoint of step {first_step}{beyond}")
        if trainer.validation is not None:
            trainer.validation.resume(first_step)
            trainer.validation.alive = lambda: attempt.heartbeat.at("validating")
        reporter = _reporter(trainer, objective.names, first_step, self.end)
        reporter.health.watch(trainer.engine.module, *frozen.values())
        self.training = _training(trainer, attempt, self.checkpoints, objective, reporter)

    def close(self) -> None:
        """Stop the loader, and write what metrics are left, however the loop ended."""
        self.trainer.loader.close()
        self.training.reporter.close()

    def finish(self, stopped: Stopped) -> None:
        """Record where the run stands, and export the weights at its end. Collective.

        Raises:
            ConfigError: on every rank, if the disk refuses, or no step was applied.
        """
        if stopped.reason is not None:
            self.attempt.preempted(stopped.step, stopped.reason)
            return
        require_an_update(self.trainer.engine, self.end)
        self.attempt.heartbeat.at("exporting", tell=True)
        self._export()

    def _export(self) -> None:
        """Export the weights, record the end, and name the videos that were replaced. Collective."""
        trainer, step, last_step = self.trainer, self.end, self.last_step
        status, cluster, folder = self.attempt.status, trainer.cluster, trainer.folder
        weights = full_weights(trainer.engine, cluster)
        average = trainer.ema.full_weights(cluster, full_weights) if trainer.ema.active else None
        replaced = self.training.faults.merged()
        with cluster.together():
            if cluster.is_main:
                trainer.export(weights, average, step, statistics_state(self.training.objective.statistics))
                status.write("finished" if step >= last_step else "stopped", step, replaced_videos=replaced)
        if cluster.is_main:
            for fault, times in replaced.items():
                say(f"replaced {times} times: {fault}")
            took = clock(status.values["seconds"])
            say(f"{trainer.label}step {step} of {max(step, last_step)} in {took}; weights in {folder.model}")


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
    gate, ema = UpdateGate(trainer.engine), trainer.ema
    average = partial(ema.full_weights, cluster, full_weights) if ema.teachers else None
    videos = None if recipe.data.sources else loader.clips_in_manifest // recipe.data.clips_per_video
    return Training(
        recipe=recipe,
        cluster=cluster,
        engine=trainer.engine,
        gate=gate,
        ema=ema,
        loader=loader,
        objective=objective,
        schedule=build_schedule(recipe, loader.steps_per_epoch),
        checkpoints=checkpoints,
        reporter=reporter,
        faults=VideoFaults(cluster, recipe.data.max_bad_share, videos),
        nonfinite=NonFiniteSteps(recipe, trainer.folder, cluster, trainer.engine, gate, objective, loader, full_weights, average),
        attempt=attempt,
        validation=trainer.validation,
        pictures=trainer.pictures,
    )


def compared_settings(recipe: LearningRecipe) -> dict[str, str | float | bool]:
    """Return every setting as one value under its dotted name, as a table of hyper-parameters takes them."""
    values = leaves(dump(recipe)).items()
    return {key: value if isinstance(value, str | float | int | bool) else str(value) for key, value in values}


def require_an_update(engine: Engine, steps: int) -> None:
    """Refuse to call a run finished whose weights are those that it began with.

    Raises:
        Diverged: on every rank, if none of the ``steps`` of the run was applied.
    """
    if steps and engine.skipped_steps >= steps:
        raise Diverged(
            f"none of {steps} steps was applied, each loss or gradient was not finite: nothing was learnt, and no model is "
            "written. Mend what the lines above name, and begin in another run.output"
        )
