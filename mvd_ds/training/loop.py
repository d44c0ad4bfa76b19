"""The training loop of every objective: loss, step, tell, save.

The host queues work for the device and waits for it where numbers are wanted: at log steps, pictures, validation and saves.
In between it is at most one step ahead, and learns of every step whether it was finite while the device computes the next.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.objectives.moving_statistics import summaries, update_statistics
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.checkpoint.checkpoint import Checkpoints
from mvd_ds.training.checkpoint.random_state import random_state, set_random_state
from mvd_ds.training.cluster import Cluster, fail_alone
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.protocol import Engine, Gate, Verdict
from mvd_ds.training.faults import VideoFaults
from mvd_ds.training.liveness.attempt import Attempt
from mvd_ds.training.liveness.process import age_seconds
from mvd_ds.training.nonfinite.finite import NonFiniteSteps, minimised
from mvd_ds.training.prefetch import DeviceBatches
from mvd_ds.training.protocols import Batches, Loader, Objective, Pictures, Validation
from mvd_ds.training.reporting.block_gradients import BlockGradients
from mvd_ds.training.reporting.reporter import Reporter
from mvd_ds.training.schedule import Schedule

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""A part of the loop that pauses after every micro batch: another student may take its turn there."""


class Stopped(NamedTuple):
    """The step at which the loop ended, and who asked for it."""

    step: int
    reason: str | None
    """Reason of a stop that was asked for; None at the last step."""


class Queued(NamedTuple):
    """A step that the device was given, of which the host does not know yet whether it was finite."""

    done: int
    losses: list[LossTerms]
    """Losses of its micro batches."""
    verdict: Verdict


@dataclass
class Training:
    """The training loop over the parts of one run, which ``runs.one_run`` builds."""

    recipe: LearningRecipe
    cluster: Cluster
    engine: Engine
    gate: Gate
    ema: Ema
    loader: Loader
    objective: Objective
    schedule: Schedule
    checkpoints: Checkpoints
    reporter: Reporter
    faults: VideoFaults
    nonfinite: NonFiniteSteps
    attempt: Attempt
    validation: Validation | None = None
    pictures: Pictures | None = None
    queued: Queued | None = None

    def run(self, first_step: int, last_step: int) -> Stopped:
        """Run ``steps`` without pauses on the batches of the loader."""
        batches = DeviceBatches(self.loader.batches(first_step, last_step), self.cluster.device)
        steps = self.steps(first_step, last_step, batches)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                stopped: Stopped = end.value
                return stopped

    def steps(self, first_step: int, last_step: int, batches: Batches) -> Steps[Stopped]:
        """Run optimizer steps ``first_step`` .. ``last_step - 1``, or fewer if a stop is asked for.

        The order of the lines is their meaning: a step that is not finite is skipped before anything counts it; a step is
        told before it is saved, so that a checkpoint never is ahead of the metrics, and a non-finite loss is never saved.

        Raises:
            ConfigError: on every rank, when too many videos are broken, too many steps are not finite, or the disk is full.
        """
        settings, cluster = self.recipe.run, self.cluster
        reason = self.attempt.stop.agreed(cluster)
        if reason is not None:
            return Stopped(first_step, reason)
        for step in range(first_step, last_step):
            done = step + 1
            learning_rate = self._set_learning_rate(step)
            is_shown = self._is_shown(done)
            if is_shown:
                self._settle()
            with BlockGradients(self.engine.module, self.pictures is not None and self.pictures.due(done)) as gradients:
                yield from self._step(batches, done)
            if is_shown or step == first_step:
                self._settle()
            if step == first_step:
                # From the start of this process: imports, states, teachers, compilation, the first batch and this step.
                self.reporter.once["perf/start_seconds"] = age_seconds()
            validated = self._validate(done)
            self._take_pictures(done, gradients)
            reason = self.attempt.stop.agreed(cluster)
            will_save = reason is not None or self._is_save_due(done, last_step)
            if will_save or validated or _due(done, settings.log_every_steps):
                self._settle()
                self.attempt.heartbeat.at("writing metrics")
                self.reporter.once |= summaries(self.objective.statistics) | self.loader.seen(done)
                self.reporter.tell(done, learning_rate, self.engine, self.nonfinite.count, validated)
                self.faults.require_few(done)
                self.loader.agree(done, self.cluster.gather)
            if will_save:
                self._save(done)
            if reason is not None:
                return Stopped(done, reason)
        return Stopped(last_step, None)

    def _step(self, batches: Batches, done: int) -> Steps[None]:
        """Queue step ``done`` and look how the one before it went.

        If that one was not finite, its gate has kept this one from the weights, too: it is computed again.
        """
        before = random_state()
        queued = yield from self._queue(done, self._next_batches(batches, done), batches)
        if not self._settle():
            set_random_state(before)
            queued = yield from self._queue(done, self.loader.again(done - 1), batches)
        self.queued = queued

    def _queue(self, done: int, micro_batches: Iterable[Any], batches: Batches) -> Steps[Queued]:
        """Queue all micro batches of one step; the engine divides the loss by their number and updates at the last."""
        losses: list[LossTerms] = []
        for batch in self.objective.prepare(micro_batches):
            loss = self.objective(batch, measure=not losses and _due(done, self.recipe.run.features_every_steps))
            self.engine.backward(minimised(loss.total))
            self._fetch_ahead(batches)
            self.reporter.memory.holds(batches.held_bytes)
            self.engine.step()
            losses.append(loss._replace(total=loss.total.detach()))
            yield
        progress = (done - 1) / self.recipe.schedule.last_step(self.loader.steps_per_epoch)
        self.ema.update(self.gate.shut, progress)
        update_statistics(list(self.objective.statistics.values()), self.cluster.sum, self.gate.shut, progress)
        return Queued(done, losses, self.gate.verdict())

    def _settle(self) -> bool:
        """Wait for the queued step, and count or report it; return whether it was finite."""
        queued, self.queued = self.queued, None
        if queued is None:
            return True
        if not queued.verdict.passed():
            self.nonfinite.handle(queued.done, queued.losses)
            return False
        for loss in queued.losses:
            self.reporter.add(loss)
        return True

    def _is_shown(self, done: int) -> bool:
        """Return whether pictures or a validation follow step ``done``, which then is settled before they start."""
        return any(shower is not None and shower.due(done) for shower in (self.pictures, self.validation))

    def _is_save_due(self, done: int, last_step: int) -> bool:
        """Return whether to save after step ``done``: a job with a time limit saves its first step, too, to time a save."""
        settings = self.recipe.run
        is_unmeasured = settings.stop_before_seconds is not None and self.checkpoints.last_save_seconds is None
        return done == last_step or is_unmeasured or _due(done, settings.save_every_steps)

    def _save(self, done: int) -> None:
        self.attempt.heartbeat.at("saving", tell=True)
        self.checkpoints.save(done, {"loader": self.loader.state()})
        self.reporter.tell_save(done)
        self.attempt.heartbeat.at("after saving", tell=True)
        if self.cluster.is_main:
            self.attempt.status.write("running", done)

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self.schedule(step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        return learning_rate

    def _validate(self, done: int) -> dict[str, float]:
        """Return measurements on held-out clips, if due; their time is no training time."""
        if self.validation is None or not self.validation.due(done):
            return {}
        self.attempt.heartbeat.at("validating")
        started = time.monotonic()
        values = self.validation(done)
        seconds = time.monotonic() - started
        self.reporter.watch.leave_out(seconds)
        if values:
            self.reporter.once["perf/validation_seconds"] = seconds
        return values

    def _take_pictures(self, done: int, gradients: BlockGradients) -> None:
        """Take pictures, if due; their time is no training time."""
        if self.pictures is None or not self.pictures.due(done):
            return
        self.attempt.heartbeat.at("taking pictures")
        started = time.monotonic()
        norms = gradients.norms(self.cluster, self.recipe.batch.accumulation_steps(self.cluster.world))
        self.pictures(done, self.objective, self.reporter.writer, norms)
        seconds = time.monotonic() - started
        self.reporter.watch.leave_out(seconds)
        self.reporter.once["perf/pictures_seconds"] = seconds

    def _fetch_ahead(self, batches: Batches) -> None:
        """Bring a GPU the next batch while it is busy with the backward pass; waiting for the loader counts as such."""
        started = time.monotonic()
        batches.fetch_ahead()
        self.reporter.watch.waiting(time.monotonic() - started)

    def _next_batches(self, batches: Batches, done: int) -> Iterator[Any]:
        for _ in range(self.recipe.batch.accumulation_steps(self.cluster.world)):
            yield self._next_batch(batches, done)

    def _next_batch(self, batches: Batches, done: int) -> Any:
        self.attempt.heartbeat.at("waiting for a batch", done)
        started = time.monotonic()
        try:
            batch = next(batches)
        except (ConfigError, RuntimeError, OSError) as error:
            fail_alone(self.cluster, f"the loader ended: {error}")
        self.reporter.watch.waiting(time.monotonic() - started)
        self.faults.add(batch.faults, asked=len(batch.sample) // self.recipe.data.clips_per_video)
        self.attempt.heartbeat.at("computing")
        return batch


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
