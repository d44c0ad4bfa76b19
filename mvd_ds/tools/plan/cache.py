"""The plan of a cache of targets: bytes of a clip, the time to fill it, and the epochs after which it has paid."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from mvd_ds.config import ATTENTION, ConfigError, TrainingRecipe
from mvd_ds.data.cached.index import NUMPY_TYPES, CacheIndex, StoredOutput
from mvd_ds.files import counted
from mvd_ds.runs.caching.match import shown_flips
from mvd_ds.tools.plan.case import Case
from mvd_ds.tools.plan.plan import Planner


class CachePlan(NamedTuple):
    """The cost and the gain of keeping the targets of a recipe.

    Attributes:
        views: rows of a clip, mirrored ones among them.
        clip_bytes: bytes of a clip by ``targets.store``.
        clips: clips of an epoch.
        live, cached: a run that asks its teachers, and one that reads what they gave.
        fill_hours: hours until the cache is filled, on as many GPUs.
        read_bytes_per_second: bytes that all loaders of a node read, by ``targets.store``.
    """

    views: int
    clip_bytes: dict[str, int]
    clips: int
    live: Case
    cached: Case
    fill_hours: float
    read_bytes_per_second: dict[str, float]

    @property
    def break_even_epochs(self) -> float:
        """Return the epochs after which filling and cached epochs took as long as live ones; infinite if they gain nothing."""
        steps = max(self.clips // self.live.recipe.batch.global_, 1)
        gained = steps * (self.live.time.total - self.cached.time.total) / 3600
        return self.fill_hours / gained if gained > 0 else math.inf

    def as_json(self) -> dict[str, Any]:
        """Return every number, with its unit in its name."""
        epochs = self.break_even_epochs
        return {
            "views": self.views,
            "clip_bytes": self.clip_bytes,
            "total_bytes": {store: self.clips * size for store, size in self.clip_bytes.items()},
            "fill_hours": self.fill_hours,
            "step_seconds": {"live": self.live.time.total, "cached": self.cached.time.total},
            "break_even_epochs": epochs if math.isfinite(epochs) else None,
            "read_bytes_per_second_per_node": self.read_bytes_per_second,
        }


def stored_outputs(recipe: TrainingRecipe, store: str) -> dict[str, StoredOutput]:
    """Return what a cache of ``recipe`` would keep, by name of the output."""
    tokens, given = math.prod(recipe.grid), {"bf16": "bfloat16", "fp32": "float32"}[recipe.engine.precision]
    found = {}
    for name, output in recipe.outputs.items():
        if output.teacher is None or output.target is None:
            continue
        joined = 1 if output.target.mode == "mean" else len(set(output.target.blocks))
        parts = {"summary": 1, "relations": 3}.get(output.target.kind, joined)
        width = parts * recipe.teachers[output.teacher].embed_dim
        shape = (width,) if output.target.kind == "summary" else (tokens, width)
        found[name] = StoredOutput(shape, store, given, parts if store == "int8" else 1)
    if recipe.masking.teacher is not None:
        found[ATTENTION] = StoredOutput((tokens,), "fp32", "float32")
    return found


def plan_cache(planner: Planner, gpus: int) -> CachePlan:
    """Return the plan of a cache for the recipe of ``planner`` on ``gpus``.

    Raises:
        ConfigError: if it has no teachers to keep anything of, or no micro batch divides its global batch there.
    """
    recipe = planner.recipe
    if not isinstance(recipe, TrainingRecipe) or not recipe.teachers:
        raise ConfigError(f"--cache: {planner.name} has no teachers whose targets could be kept")
    settings = [f"targets.crops={recipe.targets.fixed_crops or 1}"]
    live, cached = (
        Planner(planner.name, [*planner.overrides, *settings, where], planner.machine, planner.clips, planner.decode_milliseconds)
        for where in ("targets.cache=null", f"targets.cache={recipe.targets.cache or 'planned'}")
    )
    asking, reading = live.case(gpus), cached.case(gpus)
    if asking is None or reading is None:
        raise ConfigError(f"--cache: no micro batch divides batch.global {recipe.batch.global_} on {gpus} GPUs")
    flips = shown_flips(recipe)
    crops, sizes = recipe.targets.fixed_crops or 1, {}
    for store in NUMPY_TYPES:
        index = CacheIndex({}, stored_outputs(recipe, store), planner.clips, crops, flips, 1, {}, {})
        sizes[store] = index.clip_bytes
    views = crops * len(flips)
    time = asking.time
    teachers = max(time.teachers, time.teacher_communication)
    seconds = planner.clips / recipe.batch.global_ * max(views * teachers, crops * time.data)
    nodes = max(gpus / planner.machine.gpus_per_node, 1)
    read = {store: size / views * reading.clips_per_second / nodes for store, size in sizes.items()}
    return CachePlan(views, sizes, planner.clips, asking, reading, seconds / 3600, read)


def print_cache(plan: CachePlan) -> None:
    """Print the plan of a cache on standard output."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    table = Table(
        box=None, padding=(0, 2, 0, 0), title=f"\ntargets on disk, {counted(plan.views, 'view')} a clip", title_justify="left"
    )
    for name in ("targets.store", "MB a clip", f"GB of {plan.clips:,} clips", "MB/s read, a node"):
        table.add_column(name, justify="left" if name == "targets.store" else "right")
    for store, size in plan.clip_bytes.items():
        read = plan.read_bytes_per_second[store]
        table.add_row(store, f"{size / 1e6:,.2f}", f"{size * plan.clips / 1e9:,.0f}", f"{read / 1e6:,.0f}")
    console.print(table)
    live, cached, epochs = plan.live.time.total, plan.cached.time.total, plan.break_even_epochs
    steps = f"a step takes {cached:.4f} s in place of {live:.4f} s, {live / cached:.2f} times the clips/s"
    reading, by = plan.cached.time, "something else than teachers limits"
    if reading.visible_data:
        workers = f"data.workers {plan.cached.recipe.data.workers}"
        by = f"reading clips limits, {reading.data:.4f} s a step with {workers}; more of them, or `prepare`, help first"
    paid = f"has paid after {epochs:,.1f} epochs" if math.isfinite(epochs) else f"never pays: {by}"
    console.print(f"these GPUs fill it in {plan.fill_hours:,.2f} hours; {steps}; it {paid}")
