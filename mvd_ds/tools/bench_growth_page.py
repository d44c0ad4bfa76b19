"""What ``bench growth`` says: a table, a plot of measured and planned cost, JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mvd_ds.config import ConfigError
from mvd_ds.tools.bench import TABLE_WIDTH, write_result
from mvd_ds.tools.bench_growth import PROCESSES, Options, measure_growth

TIME_BOUND, MEMORY_BOUND = 0.15, 0.10
"""Off by which a plan may be."""


def bench_growth(recipe: str, overrides: list[str], options: Options, output: Path | None, plot: Path | None) -> int:
    """Measure, print, draw, and write JSON to ``output``.

    Returns:
        Exit code: 1 where a plan is off by more than its bound.

    Raises:
        ConfigError: for a faulty setting, or a file that is no picture.
    """
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {plot}: '{plot.suffix}' is no format of a picture; write growth.png, growth.svg or growth.pdf")
    result = measure_growth(recipe, overrides, options)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    console.print(_table(result))
    worst = {key: max((abs(row[key]) for row in result["cases"] if row[key] is not None), default=0.0) for key in _BOUNDS}
    console.print(
        f"Arithmetic reaches {result['efficiency_at_base']:.0%} of the {result['matrix_tflops']:.3g} TFLOP/s measured here "
        f"(from the base case). The plan is off by at most {worst['time_off_by']:.0%} of a step's time (bound {TIME_BOUND:.0%}) "
        f"and {worst['memory_off_by']:.0%} of its memory (bound {MEMORY_BOUND:.0%}).",
        soft_wrap=True,
        highlight=False,
    )
    write_result(result, output)
    if plot is not None:
        draw(result, plot)
    return int(any(worst[key] > bound for key, bound in _BOUNDS.items()))


_BOUNDS = {"time_off_by": TIME_BOUND, "memory_off_by": MEMORY_BOUND}


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"A step of {result['recipe']} on {result['label']}", title_justify="left")
    for name in ("axis", "value", "ms", "planned", "off by", "GiB", "planned", "off by"):
        table.add_column(name, justify="left" if name == "axis" else "right")
    for row in result["cases"]:
        is_group = row["axis"] == PROCESSES
        gib, planned = (row.get(f"{what}_{'state_' if is_group else ''}gib") for what in ("measured", "planned"))
        table.add_row(
            row["axis"],
            str(row["value"]),
            f"{row['measured_milliseconds']:.4g}",
            f"{row['planned_milliseconds']:.4g}",
            f"{row['time_off_by']:+.1%}",
            "-" if gib is None else f"{gib:.3f}",
            f"{planned:.3f}",
            "-" if row["memory_off_by"] is None else f"{row['memory_off_by']:+.1%}",
        )
    return table


def draw(result: dict[str, Any], path: Path) -> None:
    """Milliseconds and GiB against every axis, measured and planned."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    axes = list(dict.fromkeys(row["axis"] for row in result["cases"][1:]))
    figure, places = pyplot.subplots(2, len(axes), figsize=(3 * len(axes), 5.5), layout="constrained", squeeze=False)
    for column, axis in enumerate(axes):
        base = [] if axis == PROCESSES else [{**result["cases"][0], "value": result["base"][axis]}]
        rows = sorted([*base, *(row for row in result["cases"] if row["axis"] == axis)], key=lambda row: row["value"])
        memory = "state_gib" if axis == PROCESSES else "gib"
        for place, key, unit in ((places[0, column], "milliseconds", "ms a step"), (places[1, column], memory, "GiB")):
            values = [row["value"] for row in rows]
            place.plot(values, [row[f"measured_{key}"] or 0.0 for row in rows], "o-", label="measured")
            place.plot(values, [row[f"planned_{key}"] for row in rows], "x:", label="planned")
            place.set(xlabel=axis, ylabel=f"{unit} of state" if key == "state_gib" else unit, ylim=(0, None))
            place.grid(alpha=0.3)
    places[0, 0].legend()
    figure.suptitle(f"{result['recipe']} on {result['label']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
