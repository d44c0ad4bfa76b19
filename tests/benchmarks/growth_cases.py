"""Measurements of one training step under changed settings, beside the plan of the same step.

One setting changes at a time: clips, frames, side and masks in plain torch in this process, then the number of processes, each
with its own clips under DeepSpeed's engine. The share of the matrix rate that arithmetic reaches is taken from the base case,
and under the engine from one process; every other number of the plan is a prediction. The matrix rate is measured before and
after every step, because other work on the machine changes it within minutes.
"""

from __future__ import annotations

import statistics
from itertools import cycle
from typing import Any, NamedTuple

import torch

from benchmarks.growth_ranks import measure_ranks
from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.clock import PeakMemory, clock_of
from mvd_ds.tools.bench.product_step import ProductStep
from mvd_ds.tools.bench.step import device_name, median_total, timed_step
from mvd_ds.tools.bench.step_variants import Variant, geometry_of, pinned, rank_batches, step_recipe
from mvd_ds.tools.machine.devices import Machine, this_machine
from mvd_ds.tools.machine.matmul import matrix_rate
from mvd_ds.tools.plan.memory import plain_step_bytes
from mvd_ds.tools.plan.sizes import recipe_sizes
from mvd_ds.tools.plan.timing import DECODE_MILLISECONDS, plan_time
from mvd_ds.training.reporting.provenance import machine, versions

AXES = {
    "clips": "batch.micro",
    "frames": "data.clip.frames",
    "side in px": "data.clip.size_px",
    "masks": "masking.masks_per_clip",
}
PROCESSES = "processes"
WARM_UP = {"cpu": 1, "cuda": 5}
"""Untimed steps: the first makes the optimizer's states; on a GPU kernels are compiled and chosen."""
FACTORS = (0.5, 1, 2, 4)
"""Multiples of the base case along an axis."""
_NETWORK = ("size=small", "embed_dim=384", "num_heads=6", "depth=4", "patch_px=16", "input_px=null")
_CPU_BASE = [
    *(f"model.{item}" for item in _NETWORK[:-1]),
    *("decoder.embed_dim=384", "decoder.num_heads=6", "decoder.depth=1", "masking.masks_per_clip=2"),
    *("data.clip.frames=8", "data.clip.size_px=112", "batch.micro=2", "engine.config=zero1.json"),
]
"""Settings of small widths and 392 tokens: a step takes half a second of a core."""
_ALONE = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 50_000_000}}


class GrowthOptions(NamedTuple):
    """The cases to measure, and the number of timed steps of each."""

    axes: tuple[str, ...] = (*AXES, PROCESSES)
    steps: int = 7
    """Timed steps of a case."""
    processes: tuple[int, ...] = (1, 2, 4)
    device: str = "auto"


def measure_growth(name: str, overrides: list[str], options: GrowthOptions) -> dict[str, Any]:
    """Return measured and planned milliseconds and GiB of every case, as JSON values.

    Raises:
        ConfigError: for a faulty setting, or a recipe that does not distil.
    """
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    origin = {"machine": machine(), "versions": versions()}
    teachers = step_recipe(name, overrides, "recipe", device).teachers
    small = _CPU_BASE + [f"teachers.{key}.{item}" for key in teachers for item in _NETWORK] if device.type == "cpu" else []
    whole = [f"teachers.{key}.placement=replicated" for key in teachers]
    wanted = [*small, *whole, *overrides]
    base = step_recipe(name, wanted, "recipe", device)
    measured = _measure(base, device, options.steps)
    planned_on = _calibrated(_at_rate(this_machine(device), measured), base, measured["milliseconds"])
    cases = [_row("base", 1, base, measured, planned_on)]
    for axis in options.axes:
        if axis == PROCESSES:
            continue
        for changed in _values(base, axis):
            recipe = _changed(name, wanted, f"{AXES[axis]}={changed}", device)
            if recipe is not None:
                cases.append(_row(axis, changed, recipe, _measure(recipe, device, options.steps), planned_on))
    ranks = measure_ranks(name, wanted, options.processes, device, options.steps) if PROCESSES in options.axes else []
    return {
        "command": "bench growth",
        "recipe": name,
        "label": f"{device_name(device)}, {base.engine.precision}",
        "overrides": wanted,
        "options": options._asdict(),
        "geometry": geometry_of(base),
        "base": {axis: _at(base, axis) for axis in AXES},
        "matrix_tflops": planned_on.device.matrix_tflops,
        "efficiency_at_base": planned_on.efficiency,
        "cases": cases + _rank_rows(ranks, base, planned_on),
        **origin,
    }


def _values(base: TrainingRecipe, axis: str) -> list[int]:
    """Return the values along an axis, without that of the base case."""
    clip, model = base.data.clip, base.model
    if axis == "side in px":
        patches = clip.size_px // model.patch_px
        return [model.patch_px * count for count in sorted({round(patches * root) for root in (0.7, 1.4, 2.0)} - {patches})]
    at = _at(base, axis)
    return [int(at * factor) for factor in FACTORS if factor != 1 and at * factor >= 1]


def _at(recipe: TrainingRecipe, axis: str) -> int:
    clip = recipe.data.clip
    return {"clips": recipe.batch.micro, "frames": clip.frames, "side in px": clip.size_px, "masks": recipe.masks_per_clip}[axis]


def _changed(name: str, wanted: list[str], change: str, device: torch.device) -> TrainingRecipe | None:
    """Return the base recipe with one change; None if the recipe does not allow it."""
    try:
        return step_recipe(name, [*wanted, change], "recipe", device)
    except ConfigError:
        return None


def _measure(recipe: TrainingRecipe, device: torch.device, steps: int) -> dict[str, Any]:
    """Return the median milliseconds of a step by part, and the peak memory in GiB."""
    variant = _product_variant(recipe, device)
    batches = cycle(variant.batches)
    for _ in range(WARM_UP[device.type]):
        timed_step(variant, batches, device)
    # A shared machine's speed drifts within a case, so its rate is taken around every step.
    rates, parts = [matrix_rate(device, clock_of(device))], []
    with PeakMemory(device) as memory:
        for _ in range(steps):
            parts.append(timed_step(variant, batches, device))
            rates.append(matrix_rate(device, clock_of(device)))
    return {
        "milliseconds": median_total(parts),
        "gib": None if memory.above is None else (memory.above + variant.step.held_bytes()) / 2**30,
        "parts": {name: statistics.median(part[name] for part in parts) for name in parts[0]},
        "matrix_tflops": statistics.fmean(rates),
    }


def _product_variant(recipe: TrainingRecipe, device: torch.device) -> Variant:
    teachers = {key: build_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
    step = ProductStep(recipe, build_predictor(recipe), teachers, device)
    return Variant(step, [pinned(batch, device) for batch in rank_batches(recipe, 0)], recipe.masks_per_clip)


def planned_seconds(recipe: TrainingRecipe, engine: dict[str, Any], on: Machine, processes: int = 1) -> float:
    """Return the seconds that ``plan`` predicts for a step that never waits for data."""
    return plan_time(recipe, recipe_sizes(recipe), engine, {}, on, processes, DECODE_MILLISECONDS).device


def _calibrated(on: Machine, base: TrainingRecipe, milliseconds: float) -> Machine:
    """Return ``on`` with the efficiency at which the plan of the base case takes as long as was measured."""
    rest = planned_seconds(base, _ALONE, on._replace(efficiency=1e9))
    whole = planned_seconds(base, _ALONE, on._replace(efficiency=1.0))
    return on._replace(efficiency=(whole - rest) / (milliseconds / 1e3 - rest))


def _at_rate(on: Machine, measured: dict[str, Any]) -> Machine:
    """Return ``on`` with the matrix rate that was measured beside a case."""
    return on._replace(device=on.device.model_copy(update={"matrix_tflops": measured["matrix_tflops"]}))


def _planned_gib(recipe: TrainingRecipe) -> float:
    return sum(plain_step_bytes(recipe, recipe_sizes(recipe)).values()) / 2**30


def _row(axis: str, value: int, recipe: TrainingRecipe, measured: dict[str, Any], on: Machine) -> dict[str, Any]:
    milliseconds = 1e3 * planned_seconds(recipe, _ALONE, _at_rate(on, measured))
    gib = _planned_gib(recipe)
    return {
        "axis": axis,
        "value": value,
        **{f"measured_{key}": number for key, number in measured.items()},
        "planned_milliseconds": milliseconds,
        "planned_gib": gib,
        "time_off_by": milliseconds / measured["milliseconds"] - 1,
        "memory_off_by": None if measured["gib"] is None else gib / measured["gib"] - 1,
    }


def _rank_rows(ranks: list[dict[str, Any]], base: TrainingRecipe, on: Machine) -> list[dict[str, Any]]:
    """Return a row for each number of processes; the plan is calibrated by one process under the engine."""
    if not ranks:
        return []
    own = _calibrated(_at_rate(on, ranks[0]), base, ranks[0]["milliseconds"])
    rows = []
    for rank in ranks:
        batch = base.batch.model_copy(update={"global_": base.batch.micro * rank["processes"]})
        recipe = base.model_copy(update={"batch": batch})
        milliseconds = 1e3 * planned_seconds(recipe, rank["engine"], _at_rate(own, rank), rank["processes"])
        rows.append(
            {
                "axis": PROCESSES,
                "value": rank["processes"],
                "measured_milliseconds": rank["milliseconds"],
                "measured_matrix_tflops": rank["matrix_tflops"],
                "wall_milliseconds": rank["wall_milliseconds"],
                "planned_milliseconds": milliseconds,
                "time_off_by": milliseconds / rank["milliseconds"] - 1,
                "measured_state_gib": rank["state_gib"],
                "planned_state_gib": rank["planned_state_gib"],
                "memory_off_by": rank["planned_state_gib"] / rank["state_gib"] - 1,
            }
        )
    return rows
