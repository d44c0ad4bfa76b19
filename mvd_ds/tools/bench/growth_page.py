"""What ``bench growth`` says: a table, JSON, and a page that draws measured and planned cost."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mvd_ds.tools.bench.data_table import TABLE_WIDTH, write_output, write_result
from mvd_ds.tools.bench.growth import PROCESSES, GrowthBenchOptions, measure_growth
from mvd_ds.tools.report.charts import Line, line_chart
from mvd_ds.tools.report.document import document
from mvd_ds.tools.report.markup import Html, colour_key, element, figure, row, table
from mvd_ds.tools.report.run_records import Curve

TIME_BOUND, MEMORY_BOUND = 0.15, 0.10
"""Off by which a plan may be."""
KINDS = {"measured": "series-0", "planned": "series-1"}
"""What is drawn, and its colour."""
_BOUNDS = {"time_off_by": TIME_BOUND, "memory_off_by": MEMORY_BOUND}
_COLUMNS = ["axis", "value", "ms", "planned", "off by", "GiB", "planned", "off by"]


def bench_growth(recipe: str, overrides: list[str], options: GrowthBenchOptions, output: Path | None, report: Path | None) -> int:
    """Measure, print, write JSON to ``output`` and the page to ``report``.

    Returns:
        Exit code: 1 where a plan is off by more than its bound.

    Raises:
        ConfigError: for a faulty setting.
    """
    result = measure_growth(recipe, overrides, options)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    shown = Table(title=_title(result), title_justify="left")
    for name in _COLUMNS:
        shown.add_column(name, justify="left" if name == "axis" else "right")
    for cells in _rows(result):
        shown.add_row(*cells)
    console.print(shown)
    console.print(_finding(result), soft_wrap=True, highlight=False)
    write_result(result, output)
    if report is not None:
        write_output(growth_page(result), report)
    worst = _worst(result)
    return int(any(worst[key] > bound for key, bound in _BOUNDS.items()))


def growth_page(result: dict[str, Any]) -> str:
    """The whole HTML document: milliseconds and GiB against every axis, measured and planned; the table; where from."""
    axes = list(dict.fromkeys(case["axis"] for case in result["cases"][1:]))
    times, sizes = ([figure(axis, _chart(result, axis, what)) for axis in axes] for what in ("milliseconds", "gib"))
    return document(
        _title(result),
        f"Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}",
        element("section", element("p", _finding(result), class_="lead"), colour_key(list(KINDS.items()))),
        element("section", element("h2", "Milliseconds a step"), element("div", *times, class_="panels")),
        element("section", element("h2", "Memory"), element("div", *sizes, class_="panels")),
        element("section", element("h2", "All cases"), table(_COLUMNS, [row(*cells) for cells in _rows(result)])),
        _origin(result),
    )


def _chart(result: dict[str, Any], axis: str, what: str) -> Html:
    """Measured and planned values of one axis, the base case among them; under the engine, memory is that of states."""
    is_group = axis == PROCESSES
    base = [] if is_group else [{**result["cases"][0], "value": result["base"][axis]}]
    cases = sorted([*base, *(case for case in result["cases"] if case["axis"] == axis)], key=lambda case: case["value"])
    key = "state_gib" if is_group and what == "gib" else what
    lines = []
    for kind, colour in KINDS.items():
        known = [case for case in cases if case[f"{kind}_{key}"] is not None]
        curve = Curve([case["value"] for case in known], [case[f"{kind}_{key}"] for case in known])
        lines += [Line(curve, colour, dashed=kind == "planned")] if known else []
    unit = {"milliseconds": "ms a step", "gib": "GiB at most", "state_gib": "GiB of state"}[key]
    return line_chart(lines, unit, from_zero=True, x_label=axis)


def _title(result: dict[str, Any]) -> str:
    return f"A step of {result['recipe']} on {result['label']}"


def _worst(result: dict[str, Any]) -> dict[str, float]:
    return {key: max((abs(case[key]) for case in result["cases"] if case[key] is not None), default=0.0) for key in _BOUNDS}


def _finding(result: dict[str, Any]) -> str:
    worst = _worst(result)
    return (
        f"The plan is off by at most {worst['time_off_by']:.0%} of a step's time (bound {TIME_BOUND:.0%}) and "
        f"{worst['memory_off_by']:.0%} of its memory (bound {MEMORY_BOUND:.0%}) in {len(result['cases'])} cases. Arithmetic "
        f"reaches {result['efficiency_at_base']:.0%} of the {result['matrix_tflops']:.3g} TFLOP/s measured here, which is taken "
        "from the base case."
    )


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table."""
    rows = []
    for case in result["cases"]:
        is_group = case["axis"] == PROCESSES
        gib, planned = (case.get(f"{what}_{'state_' if is_group else ''}gib") for what in ("measured", "planned"))
        rows.append(
            (
                case["axis"],
                "" if case["axis"] == "base" else str(case["value"]),
                f"{case['measured_milliseconds']:.4g}",
                f"{case['planned_milliseconds']:.4g}",
                f"{case['time_off_by']:+.1%}",
                "-" if gib is None else f"{gib:.3f}",
                f"{planned:.3f}",
                "-" if case["memory_off_by"] is None else f"{case['memory_off_by']:+.1%}",
            )
        )
    return rows


def _origin(result: dict[str, Any]) -> Html:
    """What was measured, where, with what."""
    parts = {name: result[name] for name in ("geometry", "machine", "versions")}
    rows = [row(name, ", ".join(f"{key} {value}" for key, value in values.items())) for name, values in parts.items()]
    rows.append(row("settings", " ".join(result["overrides"])))
    return element("section", element("h2", "Where this comes from"), table(["", ""], rows, class_="words"))
