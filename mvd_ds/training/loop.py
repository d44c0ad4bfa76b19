"""The training loop of every objective: loss, step, tell, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.checkpoint import Checkpoints
from mvd_ds.training.cluster import Cluster, fail_alone
from mvd_ds.training.ema import Ema
from mvd_ds.training.faults import VideoFaults
from mvd_ds.training.reporter import Reporter
from mvd_ds.training.run_folder import Status
from mvd_ds.training.schedule import Schedule


class Objective(Protocol):
    """What a micro batch is asked to minimise."""

    names: tuple[str, ...]
    """Of its losses, the keys of ``LossTerms.terms``."""

    def __call__(self, batch: Any, measure: bool) -> LossTerms:
        """Forward pass and losses of one micro batch; ``measure`` asks for measurements that cost something, too."""
        ...


class Validation(Protocol):
    """What is measured on held-out clips while training."""

    def resume(self, first_step: int) -> None:
        """Take up from ``first_step``."""
        ...

    def __call__(self, done: int) -> dict[str, float]:
        """Measurements by metric name after step ``done``; empty where none is due. Collective."""
        ...


@dataclass
class Training:
    """The parts of one training run, built by ``runs.learning``."""

    recipe: LearningRecipe
    cluster: Cluster
    engine: Any
    ema: Ema
    loader: Any
    objective: Objective
    schedule: Schedule
    checkpoints: Checkpoints
    reporter: Reporter
    faults: VideoFaults
    status: Status
    validation: Validation | None = None

    def run(self, first_step: int, last_step: int) -> None:
        """Optimizer steps ``first_step`` .. ``last_step - 1``.

        The order of the lines is their meaning: a step is told before it is saved, so that a checkpoint never is ahead
        of the metrics, and a non-finite loss is never saved.

        Raises:
            ConfigError: on every rank, when too many videos are broken, the loss is not finite, or the disk is full.
        """
        settings = self.recipe.run
        batches = self.loader.batches(first_step, last_step)
        accumulation = self.recipe.batch.accumulation_steps(self.cluster.world)
        for step in range(first_step, last_step):
            learning_rate = self._set_learning_rate(step)
            done = step + 1
            is_last = done == last_step
            for micro in range(accumulation):
                batch = self._next_batch(batches)
                self._forward_backward(batch, measure=micro == 0 and _due(done, settings.features_every_steps))
            self.ema.update()
            validated = self._validate(done)
            will_save = is_last or _due(done, settings.save_every_steps)
            if will_save or validated or _due(done, settings.log_every_steps):
                self.reporter.tell(done, learning_rate, self.engine, validated)
                self.faults.require_few(done)
                self.loader.agree(done, self.cluster.gather)
            if will_save:
                self.checkpoints.save(done, {"loader": self.loader.state()})
                if self.cluster.is_main:
                    self.status.write("running", done)

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self.schedule(step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        return learning_rate

    def _validate(self, done: int) -> dict[str, float]:
        """Measurements on held-out clips, if due; their time is no training time."""
        if self.validation is None:
            return {}
        started = time.monotonic()
        values = self.validation(done)
        self.reporter.watch.leave_out(time.monotonic() - started)
        return values

    def _next_batch(self, batches: Iterator[Any]) -> Any:
        started = time.monotonic()
        try:
            batch = next(batches)
        except (ConfigError, RuntimeError, OSError) as error:
            fail_alone(self.cluster, f"the loader ended: {error}")
        self.reporter.watch.waiting(time.monotonic() - started)
        self.faults.add(batch.faults, asked=len(batch.sample) // self.recipe.data.clips_per_video)
        return batch

    def _forward_backward(self, batch: Any, measure: bool) -> None:
        """One micro batch; the engine divides the loss by the accumulation steps and updates at the last of them."""
        loss = self.objective(batch, measure)
        self.engine.backward(loss.total)
        self.engine.step()
        self.reporter.add(loss)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
