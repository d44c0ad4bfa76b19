"""The reports of a training run while it runs: to metric writers and to the person who watches."""

from __future__ import annotations

import math

from mvd_ds.config import LearningRecipe
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress, say
from mvd_ds.training.ending import Diverged
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.reporting.collapse import CollapseWatch
from mvd_ds.training.reporting.dwarfed import dwarfed_targets
from mvd_ds.training.reporting.health import RankHealth
from mvd_ds.training.reporting.memory import MemoryMonitor
from mvd_ds.training.reporting.metrics import Meter, MetricsWriter, Stopwatch, peak_flops


class Reporter:
    """The reporter of a run: it collects on the device, and writes and shows means at log steps.

    Args:
        names: of the losses that the line on the terminal shows.
        flops_per_clip: model FLOPs of a training step per clip, trained parts three times, teachers once.
    """

    def __init__(
        self,
        recipe: LearningRecipe,
        cluster: Cluster,
        names: tuple[str, ...],
        writer: MetricsWriter,
        progress: StepProgress,
        flops_per_clip: float,
        first_step: int,
        memory: MemoryMonitor,
        steps_per_epoch: int,
    ) -> None:
        self.recipe, self.cluster, self.names, self.memory = recipe, cluster, names, memory
        self.writer, self.progress, self.flops_per_clip = writer, progress, flops_per_clip
        self.meter, self.watch, self.told = Meter(cluster), Stopwatch(), first_step
        self.steps_per_epoch = steps_per_epoch
        self.collapse = CollapseWatch(recipe.run.collapse_share)
        self.health = RankHealth(cluster, recipe.run.slow_rank_ratio)
        self.hinted = False
        self.once: dict[str, float] = {}
        """Metrics that are written with the next line, and then forgotten."""

    def add(self, loss: LossTerms) -> None:
        """Count one micro batch; nothing waits for the device."""
        self.meter.add("loss/total", loss.total)
        for name, term in loss.terms.items():
            self.meter.add(f"loss/{name}", term)
        for name, value in loss.measurements.items():
            self.meter.add(name, value)

    def tell(self, done: int, learning_rate: float, engine: Engine, skipped_steps: int, validated: dict[str, float]) -> None:
        """Write the means since the last call, and what was ``validated``, under step ``done``. Collective.

        Args:
            skipped_steps: of this attempt, which were not finite; their losses are in no mean.

        Raises:
            Diverged: on every rank, if the loss is not finite.
        """
        values = self.meter.means()
        told = "no step was applied"
        if values:
            _require_finite(done, values["loss/total"])
            parts = " ".join(f"{name} {values[f'loss/{name}']:.3f}" for name in self.names)
            told = f"loss {values['loss/total']:.4f} ({parts})"
            self._hint({name: values[f"loss/{name}"] for name in self.names})
        values |= (
            self._optimizer(learning_rate, engine)
            | {"optim/skipped_steps": float(skipped_steps)}
            | self._speed(done)
            | self.memory.tell()
            | self.once
        )
        self.once = {}
        for line in self.collapse.look(done, values) if self.cluster.is_main else ():
            say(line)
        self.writer.write(done, values | validated)
        pace = f"{values['perf/clips_per_second']:.0f} clips/s  epoch {done / self.steps_per_epoch:.2f}  lr {learning_rate:.2e}"
        self.progress.update(done, f"{told}  {pace}")

    def tell_save(self, done: int) -> None:
        """Write what the first save of an attempt took, in a line of its own: a run may do nothing after it. Collective."""
        self.memory.mark("save")
        if values := self.memory.tell_phases():
            self.writer.write(done, values)

    def close(self) -> None:
        self.progress.close()
        self.writer.close()

    def _hint(self, losses: dict[str, float]) -> None:
        """Say at the first report of an attempt if one target's loss dwarfs another's."""
        hint = None if self.hinted else dwarfed_targets(self.recipe, losses)
        self.hinted = True
        if hint is not None and self.cluster.is_main:
            say(hint)

    def _optimizer(self, learning_rate: float, engine: Engine) -> dict[str, float]:
        return {
            "optim/lr": learning_rate,
            "optim/weight_decay": self.recipe.optimizer.weight_decay,
            "optim/gradient_norm": float(engine.get_global_grad_norm() or 0.0),
        }

    def _speed(self, done: int) -> dict[str, float]:
        seconds, waited = self.watch.read()
        steps, self.told = done - self.told, done
        clips_per_second = steps * self.recipe.batch.global_ / seconds
        flops_per_second = clips_per_second * self.flops_per_clip / self.cluster.world
        values = {
            "perf/clips_per_second": clips_per_second,
            "perf/student_samples_per_second": clips_per_second * self.recipe.masks_per_clip,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait_share": waited,
            "perf/model_tflops_per_second_per_device": flops_per_second / 1e12,
        }
        values |= self.health.tell(steps, seconds * waited)
        peak = peak_flops(self.cluster.device)
        return values | ({"perf/mfu": flops_per_second / peak} if peak else {})


def _require_finite(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"step {step}: the loss is {loss}; nothing was saved since the last checkpoint. Lower optimizer.base_lr or set "
            "optimizer.gradient_clipping, and start again: the run goes on from there"
        )
