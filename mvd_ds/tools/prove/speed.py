"""Speed of a distillation step at the published geometries, beside the usual ways to write it and beside the plan."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.files import ConfigError
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.product_step import ProductStep
from mvd_ds.tools.bench.step import StepBenchOptions, measure_step, timed_step
from mvd_ds.tools.bench.step_variants import Variant, rank_batches, step_recipe
from mvd_ds.tools.machine.devices import Machine, this_machine
from mvd_ds.tools.plan.memory import plain_step_bytes
from mvd_ds.tools.plan.sizes import recipe_sizes
from mvd_ds.tools.plan.timing import DECODE_MILLISECONDS, plan_time
from mvd_ds.tools.prove.record import Record
from mvd_ds.tools.prove.small_recipe import NETWORK

RECIPES = {"L": "mvd_large_from_large", "H": "mvd_huge_from_huge", "B": "mvd_base_from_base"}
"""In the order of their worth: the most asked for first."""
MICRO = (64, 32, 16, 8, 4, 2, 1)
MEMORY_SHARE = 0.8
"""Share of a device's memory that a planned step may fill; two variants are held at a time."""
LEAST_SECONDS = 40.0
"""Seconds without which no further case is begun."""
PLAIN = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 50_000_000}}


def run(record: Record, device: torch.device) -> None:
    """Measure every size with one mask a clip and with four, as far as the time goes; the first also leaves a trace."""
    machine = this_machine(device)
    record.measure("device", machine.device.name)
    record.measure("matrix_tflops", machine.device.matrix_tflops)
    if device.type == "cpu":
        overrides = [f"{part}.{item}" for part in ("model", "teachers.image", "teachers.video") for item in NETWORK]
        overrides += ["data.clip.size_px=112", "data.clip.frames=8", "decoder.embed_dim=128", "decoder.num_heads=2"]
        cases = [("B, shrunk", "mvd_base_from_base", overrides)]
    else:
        cases = [(size, recipe, []) for size, recipe in RECIPES.items()]
    for size, name, overrides in cases:
        for masks in (1, 4):
            where = f"{size}, {masks} masks"
            if record.seconds_left() < LEAST_SECONDS:
                record.skip(where, "no time left in this part's box")
                continue
            _measure(record, where, name, [*overrides, f"masking.masks_per_clip={masks}"], machine, device)


def _measure(record: Record, where: str, name: str, overrides: list[str], machine: Machine, device: torch.device) -> None:
    """Measure one case with the largest micro batch that fits, and compare it with the plan."""
    options = StepBenchOptions(steps=5 if device.type == "cuda" else 1)
    for micro in MICRO if device.type == "cuda" else MICRO[-2:]:
        chosen = [*overrides, f"batch.micro={micro}", f"batch.global={micro}"]
        recipe = step_recipe(name, chosen, "recipe", device)
        if not _fits(recipe, machine):
            continue
        try:
            found = measure_step(name, chosen, options)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        except ConfigError as error:
            record.skip(where, error)
            return
        gate, ours = found["gate"], "ours" if recipe.masks_per_clip == 1 else f"ours, {recipe.masks_per_clip} masks"
        record.require(f"{where}: losses and gradients equal the yardsticks'", gate["equal"], str(gate["losses"]))
        planned = _against_plan(recipe, found["variants"][ours], machine)
        record.measure(where, {"micro": micro, **_kept(found), "plan": planned})
        if "ten longest kernels" not in record.measured:
            record.measure("ten longest kernels", _longest_kernels(recipe, device))
        return
    record.skip(where, "no micro batch fits into the device's memory")


def _longest_kernels(recipe: TrainingRecipe, device: torch.device) -> dict[str, str]:
    """Return milliseconds and calls of the kernels that take longest in one step of the product, by name."""
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    step = ProductStep(recipe, build_predictor(recipe), teachers, device)
    variant = Variant(step, rank_batches(recipe, 0), recipe.masks_per_clip)
    batches = cycle(variant.batches)
    timed_step(variant, batches, device)
    is_cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if is_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        timed_step(variant, batches, device)
    rows = [
        ((row.self_device_time_total if is_cuda else row.self_cpu_time_total) / 1e3, row.count, row.key)
        for row in profiler.key_averages()
    ]
    return {name[:120]: f"{milliseconds:.2f} ms in {count} calls" for milliseconds, count, name in sorted(rows)[:-11:-1]}


def _fits(recipe: TrainingRecipe, machine: Machine) -> bool:
    # Ours and a yardstick are held together, each with weights, masters and moments of its own.
    needed = 2 * sum(plain_step_bytes(recipe, recipe_sizes(recipe)).values()) / 2**30
    return needed < MEMORY_SHARE * machine.device.memory_gib


def _kept(found: dict[str, Any]) -> dict[str, Any]:
    keys = ("label", "geometry", "matrix_tflops", "variants", "times", "masks", "gate")
    return {key: found[key] for key in keys if key in found}


def _against_plan(recipe: TrainingRecipe, ours: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """Return planned and measured time and memory of a step, the error, and the efficiency that would have been right."""
    sizes = recipe_sizes(recipe)

    def planned(efficiency: float) -> float:
        on = machine._replace(efficiency=efficiency)
        return plan_time(recipe, sizes, PLAIN, {}, on, 1, DECODE_MILLISECONDS).device

    measured, seconds = ours["step_ms"] / 1e3, planned(machine.efficiency)
    # Arithmetic scales with 1 / efficiency, and the rest of a step does not.
    rest, whole = planned(1e9), planned(1.0)
    efficiency = (whole - rest) / (measured - rest) if measured > rest else None
    gib = sum(plain_step_bytes(recipe, sizes).values()) / 2**30
    return {
        "planned_ms": 1e3 * seconds,
        "time_error_percent": 100 * (seconds / measured - 1),
        "planned_gib": gib,
        "memory_error_percent": None if not ours["peak_gib"] else 100 * (gib / ours["peak_gib"] - 1),
        "assumed_efficiency": machine.efficiency,
        "measured_efficiency": efficiency,
    }
