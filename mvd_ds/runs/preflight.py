"""This module tries a recipe on 64 clips before it is run (``preflight``): targets, cost of reading, memory, step time."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, Recipe, TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.objectives.diagnostics import effective_rank
from mvd_ds.runs.building import build_trainer
from mvd_ds.runs.one_run import begin_statistics
from mvd_ds.runs.placed_students import Placed, gathered
from mvd_ds.runs.trainer import Trainer
from mvd_ds.training.checkpoint.checkpoint import Resumed
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.elasticity import leave_out_surplus
from mvd_ds.training.masked_prediction import RANK_TOKENS
from mvd_ds.training.run_folder import FAILED, FINISHED, RunFolder

CLIPS = 64
#: Effective rank of targets below which there is nothing to learn, and share of their variance in one channel above which
#: that channel is most of the loss.
COLLAPSED_RANK, LOUD_CHANNEL = 2.0, 0.5
#: Share of a device's memory above which the peak of a step is too high.
TIGHT = 0.92


def preflight(recipe: Recipe, name: str) -> int:
    """Read at least 64 clips, check the targets, take one step or more, and print what was found; write nothing.

    Returns:
        0, or 1 where something found would spoil the training.

    Raises:
        ConfigError: for whatever the training itself would refuse.
    """
    if not isinstance(recipe, TrainingRecipe) or recipe.command not in ("pretrain", "distill"):
        raise ConfigError(f"preflight is for recipes of pretrain and distill; {name} is one of {recipe.command}")
    leave_out_surplus(recipe.batch)
    with joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster:
        return _try_students(recipe, cluster) if recipe.students else _try(recipe, cluster)


def _try_students(recipe: TrainingRecipe, cluster: Cluster) -> int:
    """Try every student as if it were alone, on its own processes if it has any, and return the worst code. Collective."""
    placed = Placed(recipe, {key: recipe.student(key) for key in recipe.students}, cluster)
    found: dict[str, int] = {}

    def one(key: str, own: Cluster) -> None:
        if own.is_main:
            where = recipe.students[key].ranks
            say(f"student {key}{f', ranks {where}' if where else ''}:")
        found[key] = _try(placed.alone[key], own)
        gc.collect()  # an engine and its hooks hold each other, and the next student is measured

    placed.each(placed.alone, one)
    if cluster.is_main:
        say("each student was tried alone; a run holds the states of all: `mvd_ds plan` says whether they fit together")
    return max(gathered(cluster, found).values())


def _try(recipe: TrainingRecipe, cluster: Cluster) -> int:
    """Return what ``preflight`` does of a run of one student. Collective."""
    with tempfile.TemporaryDirectory() as folder:  # digests of large inputs that are compared would be kept in the run's
        trainer = build_trainer(recipe, RunFolder(Path(folder)), cluster)
        objective, frozen = trainer.objective()
        trainer.memory.watch(trainer.engine, frozen)
        batches, read_seconds = _read(recipe, cluster)
        begin_statistics(trainer, objective, Resumed(0, {}), lambda _: None)
        statistics = _target_statistics(objective, batches, cluster)
        before = _scales_before(objective, batches, cluster)
        seconds = _step_seconds(trainer, objective, batches)
        memory = trainer.memory.tell()
        faults = sorted({fault for part in cluster.gather([f for b in batches for f in b.faults]) for fault in part})
        worst = max(cluster.gather((read_seconds, seconds)))
        troubles = [*_of_targets(statistics, recipe), *_of_memory(memory, cluster), *faults]
        if cluster.is_main:
            _say(recipe, cluster, statistics, before, worst, memory, troubles)
        return FAILED if cluster.broadcast(any(values["finite"] < 1 for values in statistics.values())) else FINISHED


def _read(recipe: TrainingRecipe, cluster: Cluster) -> tuple[list[Any], float]:
    """Return micro batches of whole steps, read by this process itself, and the seconds that a clip took."""
    here = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 0})})
    steps = -(-CLIPS // recipe.batch.global_)
    started = time.monotonic()
    loader = ClipLoader(here, recipe.drop_path_blocks, cluster.rank, cluster.world)
    batches = list(loader.batches(0, steps))
    loader.close()
    return batches, (time.monotonic() - started) / sum(len(batch.sample) for batch in batches)


def _target_statistics(objective: Any, batches: list[Any], cluster: Cluster) -> dict[str, dict[str, float]]:
    """Return means over micro batches and ranks, by target. Collective."""
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        targets = objective.targets(*objective.targets.draw(to_device(batch, cluster.device)))
        for name, target in targets.items():
            if target.is_floating_point():  # not classes
                found.setdefault(name, []).append(_statistics(target, objective.targets.terms[name].trivial_loss(target)))
    means = {name: cluster.mean(torch.stack(rows).mean(0)).tolist() for name, rows in found.items()}
    return {name: dict(zip(STATISTICS, values, strict=True)) for name, values in means.items()}


def _scales_before(objective: Any, batches: list[Any], cluster: Cluster) -> dict[str, dict[str, float]]:
    """Return ``SCALES`` of what teachers give, over micro batches and ranks, by the targets that are standardised. Collective."""
    targets = objective.targets
    names = [name for name, term in targets.terms.items() if term.standardise != "none"]
    if not names:
        return {}
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        drawn, _ = targets.draw(to_device(batch, cluster.device))
        for teacher in targets.settings:
            for name, source in targets.sources(teacher, drawn).items():
                if name in names:
                    tokens = source.float().flatten(0, -2)
                    variances = tokens.var(dim=0, correction=0)
                    loudest = variances.max() / variances.sum().clamp_min(1e-12)
                    found.setdefault(name, []).append(torch.stack((tokens.mean(), tokens.std(), loudest)))
    means = {name: cluster.mean(torch.stack(found[name]).mean(0)).tolist() for name in names}
    return {name: dict(zip(SCALES, values, strict=True)) for name, values in means.items()}


SCALES = ("mean", "deviation", "loudest_channel")
STATISTICS = ("finite", "mean", "deviation", "norm", "loudest_channel", "effective_rank", "mean_target_loss")


@torch.no_grad()
def _statistics(target: Tensor, trivial_loss: Tensor) -> Tensor:
    """Return ``STATISTICS`` of targets (B*K, P, D), or (B*K, D)."""
    tokens = target.float().flatten(0, -2)
    variances = tokens.var(dim=0, correction=0)
    samples = tokens[:: max(len(tokens) // RANK_TOKENS, 1)][:RANK_TOKENS]
    values = (
        torch.isfinite(tokens).all().float(),
        tokens.mean(),
        tokens.std(),
        tokens.norm(dim=1).mean(),
        variances.max() / variances.sum().clamp_min(1e-12),
        effective_rank(samples),
        trivial_loss,
    )
    return torch.stack(values)


def _step_seconds(trainer: Trainer, objective: Any, batches: list[Any]) -> float:
    """Take the steps of ``batches`` and return the seconds of the last one, which starts nothing up. Collective."""
    accumulation = trainer.recipe.batch.accumulation_steps(trainer.cluster.world)
    seconds = 0.0
    for first in range(0, len(batches), accumulation):
        started = time.monotonic()
        for batch in objective.prepare(batches[first : first + accumulation]):
            trainer.engine.backward(objective(batch, measure=False).total)
            trainer.engine.step()
        trainer.cluster.barrier()
        seconds = time.monotonic() - started
    return seconds


def _of_targets(statistics: dict[str, dict[str, float]], recipe: TrainingRecipe) -> Iterator[str]:
    for name, values in statistics.items():
        if values["finite"] < 1:
            yield f"{name}: targets are not finite; every step would be skipped"
        elif recipe.outputs[name].is_relational:
            continue  # a channel of queries, keys and values means nothing by itself
        elif values["effective_rank"] < COLLAPSED_RANK:
            yield f"{name}: targets have an effective rank of {values['effective_rank']:.1f}; there is nothing to learn"
        elif values["loudest_channel"] > LOUD_CHANNEL:
            remedy = f"; teachers.{name}.target.standardise=phi_s evens them out" if name in recipe.teachers else ""
            yield f"{name}: one channel has {100 * values['loudest_channel']:.0f} % of the targets' variance{remedy}"


def _scale_of(recipe: TrainingRecipe, name: str) -> str:
    target = recipe.outputs[name].target
    return target.standardised_by if target is not None else "none"


def _of_memory(memory: dict[str, float], cluster: Cluster) -> Iterator[str]:
    if cluster.device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(cluster.device).total_memory / 2**30
    if memory["memory/peak_gib"] > TIGHT * total:
        yield f"a step takes {memory['memory/peak_gib']:.1f} of the device's {total:.1f} GiB; lower batch.micro"


def _say(
    recipe: TrainingRecipe,
    cluster: Cluster,
    statistics: dict[str, dict[str, float]],
    before: dict[str, dict[str, float]],
    seconds: tuple[float, float],
    memory: dict[str, float],
    troubles: list[str],
) -> None:
    for name, values in statistics.items():
        say(
            f"target {name}: mean {values['mean']:.3g}, deviation {values['deviation']:.3g}, token norm {values['norm']:.3g}, "
            f"effective rank {values['effective_rank']:.0f}, loudest channel {100 * values['loudest_channel']:.1f} % of the "
            f"variance; predicting the mean target costs {values['mean_target_loss']:.3g}"
        )
    for name, raw in before.items():
        made = statistics[name]
        say(
            f"target {name}: standardise {_scale_of(recipe, name)} takes features of deviation {raw['deviation']:.3g} to "
            f"{made['deviation']:.3g}, mean {raw['mean']:.3g} to {made['mean']:.3g}, and the loudest channel from "
            f"{100 * raw['loudest_channel']:.1f} to {100 * made['loudest_channel']:.1f} % of the variance"
        )
    read, step = seconds
    wanted = recipe.batch.global_ / cluster.world / step
    cores = wanted * read
    workers = recipe.data.workers
    verdict = "enough" if cores <= max(workers, 1) else "too few: steps will wait for data"
    say(
        f"reading: {1000 * read:.1f} ms of a core a clip; a step takes {step:.2f} s here and wants {wanted:.1f} clips/s of each "
        f"process, {cores:.1f} cores: data.workers {workers} are {verdict}"
    )
    parts = ", ".join(
        f"{key[len('memory/') : -len('_gib')].replace('_', ' ')} {value:.3g}" for key, value in sorted(memory.items())
    )
    say(f"memory of the process that takes most, GiB: {parts}")
    for trouble in troubles:
        say(f"to check: {trouble}")
    if not troubles:
        say("no fault was found")
