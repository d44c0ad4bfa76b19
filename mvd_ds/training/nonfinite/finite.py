"""Steps whose loss or gradient is not finite: skipped on all ranks or the end, told with rank, clips and tensors, and dumped.

The ``UpdateGate`` keeps an update from the weights where the norm of the whole gradient is not finite, on all ranks alike. So
nothing is asked of the device here while all is well: a loss that is not finite is given a gradient that is not finite
either, which every rank's share of the norm then shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.objectives.moving_statistics import statistics_state, update_statistics
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.checkpoint.random_state import random_state, set_random_state
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ending import Diverged, log_error
from mvd_ds.training.engine.protocol import Engine, Gate, WholeWeights
from mvd_ds.training.nonfinite.dump import write_dump
from mvd_ds.training.protocols import Loader, Objective
from mvd_ds.training.run_folder import RunFolder

#: Dumps an attempt writes at most: each holds the whole student.
DUMPS = 3
#: How the names of targets begin, which frozen networks make.
TARGET = "targets of "
#: Clips and tensors that a message names at most.
NAMED = 4


def minimised(total: Tensor) -> Tensor:
    """Return ``total``, times NaN if it is not finite: an infinite loss may have a finite, wrong gradient."""
    return total * torch.where(torch.isfinite(total.detach()), 1.0, torch.nan)


class FiniteWatch:
    """A context that notes, in the order of computation, which module outputs and gradients of ``model`` are not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.flags: dict[str, Tensor] = {}
        self.hooks: list[Any] = []

    def __enter__(self) -> FiniteWatch:
        for name, module in self.model.named_modules():
            if not any(True for _ in module.children()):
                self.hooks.append(module.register_forward_hook(self._output(f"output of {name}")))
        for name, parameter in self.model.named_parameters():
            self.hooks.append(parameter.register_hook(self._gradient(f"gradient of {name}")))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def names(self) -> list[str]:
        """Return the names of what was not finite, the first one first; waits for the device."""
        return [name for name, flag in self.flags.items() if flag]

    def see(self, name: str, value: Any) -> None:
        """Note whether ``value`` is finite, under ``name``."""
        if isinstance(value, Tensor) and value.is_floating_point():
            bad = ~torch.isfinite(value.detach()).all()
            self.flags[name] = self.flags[name] | bad if name in self.flags else bad

    def _output(self, name: str) -> Callable[..., None]:
        return lambda module, inputs, output: self.see(name, output)

    def _gradient(self, name: str) -> Callable[[Tensor], None]:
        return lambda gradient: self.see(name, gradient)


class NonFiniteSteps:
    """The handler of steps that are not finite: it counts and reports them, and does what ``run.on_nonfinite`` says.

    Args:
        objective: forward and losses of a micro batch.
        loader: gives the micro batches of a step again, and the paths of their videos.
        whole_weights: gathers the engine's weights for a dump.
        whole_average: gathers their moving average, where a teacher is it.
    """

    def __init__(
        self,
        recipe: LearningRecipe,
        folder: RunFolder,
        cluster: Cluster,
        engine: Engine,
        gate: Gate,
        objective: Objective,
        loader: Loader,
        whole_weights: WholeWeights,
        whole_average: Callable[[], dict[str, Tensor]] | None = None,
    ) -> None:
        self.recipe, self.folder, self.cluster = recipe, folder, cluster
        self.engine, self.gate, self.objective, self.loader = engine, gate, objective, loader
        self.whole_weights, self.whole_average = whole_weights, whole_average
        self.count = 0

    def handle(self, done: int, losses: list[LossTerms]) -> None:
        """Tell of step ``done``, which shut the gate, and open it again. Collective; nothing random is used up by it.

        Args:
            losses: of its micro batches.

        Raises:
            Diverged: on every rank, if the setting is to stop, or the limit is passed.
        """
        self.count += 1
        # A checkpoint's manifest tells it; DeepSpeed thinks that it was applied.
        self.engine.skipped_steps += 1
        batches = self.loader.again(done - 1)
        tensors = self._look_again(batches)
        mine = {
            "rank": self.cluster.number,
            "micro_batches": [
                {
                    "total": float(loss.total.detach()),
                    "terms": {name: float(term) for name, term in loss.terms.items()},
                    "tensors": names,
                    "clips": [self.loader.path_of(index) for index in batch.sample.tolist()],
                }
                for batch, loss, names in zip(batches, losses, tensors, strict=True)
            ],
        }
        ranks = self.cluster.gather(mine)
        where = self._dump(done, batches, ranks)
        self.gate.open()
        text = f"step {done}: {_told(ranks)}; {where}"
        if self.recipe.run.on_nonfinite == "stop":
            raise Diverged(f"{text}; run.on_nonfinite is stop. {_remedy(ranks)}")
        if self.count > self.recipe.run.nonfinite_limit:
            raise Diverged(
                f"{text}; these were more than run.nonfinite_limit {self.recipe.run.nonfinite_limit} skipped steps. "
                f"{_remedy(ranks)}"
            )
        if self.cluster.is_main:
            log_error(f"{text}; skipped on all ranks ({self.count} of at most {self.recipe.run.nonfinite_limit})")

    def _look_again(self, batches: list[Any]) -> list[list[str]]:
        """Compute the step once more, behind the shut gate, and see where."""
        found, before = [], random_state()
        for batch in self.objective.prepare(batches):
            with FiniteWatch(self.engine.module) as watch:
                self.objective.inspect = watch.see
                self.engine.backward(minimised(self.objective(batch, False).total))
                self.engine.step()
            self.objective.inspect = None
            found.append(watch.names())
        # What was collected is of a step that does not count: behind the shut gate nothing moves by it.
        update_statistics(list(self.objective.statistics.values()), self.cluster.sum, self.gate.shut, 0.0)
        set_random_state(before)
        return found

    def _dump(self, done: int, batches: list[Any], ranks: list[dict[str, Any]]) -> str:
        """Write the dump and return where it is, in words; a dump that cannot be written ends no run. Collective."""
        if self.count > DUMPS:
            return f"no dump, {DUMPS} were written"
        weights = self.whole_weights(self.engine, self.cluster)
        average = self.whole_average() if self.whole_average is not None else None
        path: Path = self.folder.dump(done)
        try:
            statistics = statistics_state(self.objective.statistics)
            write_dump(path, done, self.recipe, self.cluster, weights, batches, ranks, statistics, average)
        except ConfigError as error:
            return f"no dump: {error}"
        return f"python -m mvd_ds replay {path}"


def _told(ranks: list[dict[str, Any]]) -> str:
    """Return the message: the ranks, what was not finite on each, and the clips."""
    parts = []
    for rank in ranks:
        bad = [micro for micro in rank["micro_batches"] if micro["tensors"] or not _is_finite(micro["total"])]
        if not bad:
            continue
        losses = sorted({name for micro in bad for name, value in micro["terms"].items() if not _is_finite(value)})
        what = f"loss {', '.join(losses) or 'total'}" if not all(_is_finite(micro["total"]) for micro in bad) else "the gradient"
        tensors = list(dict.fromkeys(name for micro in bad for name in micro["tensors"]))
        clips = list(dict.fromkeys(clip for micro in bad for clip in micro["clips"]))
        first = f" (first {', '.join(tensors[:NAMED])})" if tensors else ""
        parts.append(f"{what} of rank {rank['rank']} is not finite{first}, clips {_some(clips)}")
    return "; ".join(parts) or "the gradient is not finite, on no rank alone"


def _remedy(ranks: list[dict[str, Any]]) -> str:
    """Return what may help: a target that is not finite is not the student's fault."""
    named = [name for rank in ranks for micro in rank["micro_batches"] for name in micro["tensors"]]
    if any(name.startswith(TARGET) for name in named):
        return "Use engine.precision=fp32, in which targets do not overflow, or mend the weights of what makes them"
    return "Lower optimizer.base_lr or set optimizer.gradient_clipping"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _is_finite(value: float) -> bool:
    return value - value == 0.0
