"""The command ``bench step RECIPE``: the product's training step beside yardsticks, on equal weights and inputs.

Started alone it measures one device; under a launcher all of its group, whose slowest process counts.

No ratio is given unless the first losses and gradient norms of all variants agree. Weights and pixels are random: their values
do not change what has to be computed. Drop path is off, as no two implementations draw it alike.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.runs.student import recipe_flops
from mvd_ds.tools.bench.clock import Clock, PeakMemory, clock_of
from mvd_ds.tools.bench.codebooks import with_random_codebooks
from mvd_ds.tools.bench.product_step import DistillStep
from mvd_ds.tools.bench.reference_step import STYLES
from mvd_ds.tools.bench.step_variants import (
    FP8,
    SELF,
    Variant,
    build_variants,
    geometry_of,
    gflops_of,
    require_yardsticks,
    step_recipe,
    with_mask_count,
    with_self_attention,
)
from mvd_ds.tools.machine.matmul import datasheet_rate, matrix_rate
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.reporting.provenance import machine, versions

TIMEOUT_MINUTES = 10
"""Time after which processes of a group stop waiting for each other."""
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}
"""Largest relative difference of first losses and gradient norms by precision."""


class StepBenchOptions(NamedTuple):
    """The number of steps and what to compare; None is 10 on a GPU, 1 (and no warm-up beyond the gate) on a CPU."""

    geometry: str = "recipe"
    steps: int | None = None
    """Number of timed steps of a turn."""
    warmup: int | None = None
    rounds: int = 1
    """Number of rounds of two turns for every variant, in the order A B B A."""
    device: str = "auto"
    profile: Path | None = None
    against: tuple[str, ...] = tuple(STYLES)
    """Yardsticks that are measured; ratios and the gate are to the first. None: nothing is compared."""


def measure_step(name: str, overrides: list[str], options: StepBenchOptions) -> dict[str, Any]:
    """Measure all variants, and return the results as JSON values.

    Raises:
        ConfigError: for a faulty setting, or a recipe that has no yardstick.
    """
    with bench_group(options.device) as cluster, tempfile.TemporaryDirectory() as folder:
        with cluster.together():
            recipe = step_recipe(name, overrides, options.geometry, cluster.device, cluster.world)
            recipe = with_random_codebooks(recipe, Path(folder))
            if options.against:
                require_yardsticks(recipe)
        return _measure(recipe, name, options, cluster)


@contextlib.contextmanager
def bench_group(device: str) -> Iterator[Cluster]:
    """Give the processes that measure; on a CPU each has one thread inside."""
    threads = torch.get_num_threads()
    try:
        with _group(device) as cluster:
            if cluster.device.type == "cpu":
                torch.set_num_threads(1)
            yield cluster
    finally:
        torch.set_num_threads(threads)


def _group(device: str) -> contextlib.AbstractContextManager[Cluster]:
    """Return the launched group that this process belongs to, or this process alone, without DeepSpeed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return joined_cluster(TIMEOUT_MINUTES, device)
    is_cuda = device != "cpu" and torch.cuda.is_available()
    return contextlib.nullcontext(Cluster(0, 1, torch.device("cuda" if is_cuda else "cpu")))


def _measure(recipe: TrainingRecipe, name: str, options: StepBenchOptions, cluster: Cluster) -> dict[str, Any]:
    origin = {"machine": machine(), "versions": versions()}  # first: files may change while this runs
    device, world = cluster.device, cluster.world
    matrix = min(cluster.gather(matrix_rate(device, clock_of(device))))
    variants, doubled = build_variants(recipe, cluster, options.against)
    gate = _gate(variants, doubled, recipe.engine.precision, cluster)
    samples, peaks = timed(variants, options, cluster)
    if options.profile is not None:
        yardsticks = ["P1"] if "P1" in variants else list(options.against[:1])
        _profile({key: variants[key] for key in (*yardsticks, "ours")}, options.profile, cluster)
    datasheet = datasheet_rate(device)
    rows = {
        key: _row(samples[key], recipe, variant, matrix, datasheet) | {"peak_gib": peaks[key]} | _of_step(variant)
        for key, variant in variants.items()
    }
    return {
        "command": "bench step",
        "recipe": name,
        "label": f"{f'{world} x ' if world > 1 else ''}{device_name(device)}, {recipe.engine.precision}",
        "processes": world,
        "engine": recipe.engine.config if world > 1 else None,
        "options": options._asdict() | {"profile": str(options.profile) if options.profile else None},
        "geometry": geometry_of(recipe),
        "gflops_per_clip": gflops_of(recipe),
        "gate": gate,
        "matrix_tflops": matrix,
        "datasheet_tflops": datasheet,
        "variants": rows,
        **(_ratios(rows, recipe) if gate["equal"] else {}),
        **origin,
    }


def _gate(variants: dict[str, Variant], doubled: Variant, precision: str, cluster: Cluster) -> dict[str, Any]:
    """Return first losses and gradient norms, and whether they agree; the product under K masks is compared with K clips."""
    found = {key: first_step(variant, cluster) for key, variant in variants.items()}
    expected = {key: found[next(iter(found))] for key in found if key not in (FP8, SELF)}
    if found.keys().isdisjoint(STYLES):
        expected.clear()
    elif doubled.masks > 1:
        key = f"ours, {doubled.masks} masks"
        expected[key] = found[f"P2, {doubled.masks} masks"] = first_step(doubled, cluster)
    pairs = [pair for key, numbers in expected.items() for pair in zip(found[key], numbers, strict=True)]
    worst = max((abs(a - b) / abs(b) for a, b in pairs), key=lambda share: math.inf if math.isnan(share) else share, default=0.0)
    return {
        "equal": worst <= TOLERANCE[precision],
        "worst_relative_difference": worst,
        "tolerance": TOLERANCE[precision],
        "losses": {key: loss for key, (loss, _) in found.items()},
        "gradient_norms": {key: norm for key, (_, norm) in found.items()},
    }


def first_step(variant: Variant, cluster: Cluster) -> tuple[float, float]:
    """Run a whole step, which also makes the optimizer's states, and return its loss and gradient norm over all processes."""
    loss = variant.step.loss(variant.batches[0], Clock(cluster.device))
    variant.step.backward(loss)
    norm = variant.step.first_update()
    return cluster.mean(loss.detach()).item(), norm


def timed(variants: dict[str, Variant], options: StepBenchOptions, cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return milliseconds by part of every timed step of the slowest process, and peak GiB, both by variant."""
    device = cluster.device
    usual = (10, 10) if device.type == "cuda" else (1, 0)
    steps = usual[0] if options.steps is None else options.steps
    warmup = usual[1] if options.warmup is None else options.warmup
    samples: dict[str, list[dict[str, float]]] = {key: [] for key in variants}
    peaks: dict[str, float | None] = {}
    turns = {key: cycle(variant.batches) for key, variant in variants.items()}
    for _ in range(options.rounds):
        for key in [*variants, *reversed(variants)]:
            cluster.barrier()
            with PeakMemory(device) as memory:
                timed = [timed_step(variants[key], turns[key], device) for _ in range(warmup + steps)][warmup:]
            samples[key] += timed
            peaks[key] = None if memory.above is None else (memory.above + variants[key].step.held_bytes()) / 2**30
    ranks = cluster.gather((samples, peaks))
    slowest = {key: max((own[key] for own, _ in ranks), key=median_total) for key in variants}
    largest = {key: None if None in (own := [most[key] for _, most in ranks]) else max(own) for key in variants}
    return slowest, largest


def median_total(samples: list[dict[str, float]]) -> float:
    """Return the milliseconds of the median step."""
    return statistics.median(sum(parts.values()) for parts in samples)


def timed_step(variant: Variant, batches: Iterator[Any], device: torch.device) -> dict[str, float]:
    """Run a step on the next batch, and return milliseconds by part."""
    batch, clock = next(batches), Clock(device)
    clock.start()
    loss = variant.step.loss(batch, clock)
    variant.step.backward(loss)
    clock.mark("backward")
    variant.step.update()
    clock.mark("optimizer")
    return clock.parts()


def _profile(variants: dict[str, Variant], folder: Path, cluster: Cluster) -> None:
    """Write a trace of one step of each variant on the first process, for chrome://tracing or Perfetto."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if cluster.device.type == "cuda" else []
    folder.mkdir(parents=True, exist_ok=True)
    for key, variant in variants.items():
        with torch.profiler.profile(activities=activities) as profiler:
            timed_step(variant, iter(variant.batches), cluster.device)
        if cluster.is_main:
            profiler.export_chrome_trace(str(folder / f"{key}.json"))


def _row(
    samples: list[dict[str, float]], recipe: TrainingRecipe, variant: Variant, matrix: float, datasheet: float | None
) -> dict[str, Any]:
    """Return the median step of one variant and the rates that follow from it."""
    totals = [sum(parts.values()) for parts in samples]
    seconds = median_total(samples) / 1e3
    clips = recipe.batch.global_ / seconds
    tflops = recipe.batch.micro / seconds * recipe_flops(with_mask_count(variant.recipe or recipe, variant.masks)).training / 1e12
    return {
        "step_ms": 1e3 * seconds,
        "step_ms_least_and_most": [min(totals), max(totals)],
        "steps": len(totals),
        "clips_per_second": clips,
        "student_samples_per_second": clips * variant.masks,
        "tflops": tflops,
        "mfu_of_matrix_rate": tflops / matrix,
        "mfu_of_datasheet": None if datasheet is None else tflops / datasheet,
        "parts_ms": {name: statistics.median([parts[name] for parts in samples]) for name in samples[0]},
    }


def _of_step(variant: Variant) -> dict[str, Any]:
    """Return why stacks of blocks run uncompiled and the similarity of FP8 to bf16 features; nothing for a yardstick."""
    step = variant.step
    if not isinstance(step, DistillStep):
        return {}
    similarities = {"fp8_similarity": step.similarities} if step.similarities else {}
    return {"compiled": {stack.where: stack.fault or "yes" for stack in step.stacks}, **similarities}


def _ratios(rows: dict[str, dict[str, Any]], recipe: TrainingRecipe) -> dict[str, Any]:
    """Return the yardsticks' steps over the product's, and the gain by K masks beside the gain by the count of operations."""
    ours, masks = rows["ours"], recipe.masks_per_clip
    fp8 = {"fp8": ours["step_ms"] / rows[FP8]["step_ms"]} if FP8 in rows else {}
    found: dict[str, Any] = {
        **fp8,
        "times": {key: row["step_ms"] / ours["step_ms"] for key, row in rows.items() if key in STYLES},
    }
    if SELF in rows:
        other = with_self_attention(recipe)
        assert other is not None
        counts = [recipe_flops(with_mask_count(each, 1)).training for each in (other, recipe)]
        found["decoders"] = {"times": rows[SELF]["step_ms"] / ours["step_ms"], "by_count_of_operations": counts[0] / counts[1]}
    if masks > 1:
        samples = {key: row["student_samples_per_second"] for key, row in rows.items()}
        key = f"ours, {masks} masks"
        formula = masks * recipe_flops(with_mask_count(recipe, 1)).training / recipe_flops(recipe).training
        measured = samples[key] / samples["ours"]
        found["masks"] = {
            **{f"samples_times_{name}": samples[key] / samples[name] for name in STYLES if name in samples},
            "samples_times_one_mask": measured,
            "by_count_of_operations": formula,
            "share": measured / formula,
        }
    return found


def device_name(device: torch.device) -> str:
    """Return the name of the device for tables."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, one thread, CPU time"
