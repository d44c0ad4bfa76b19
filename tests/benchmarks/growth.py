"""The growth of a training step's cost with clips, frames, side, masks and processes, beside what ``plan`` predicts.

``python -m benchmarks.growth RECIPE [key=value ...] [--output FILE]``, with . and tests on the PYTHONPATH.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.growth_cases import AXES, PROCESSES, GrowthOptions, measure_growth
from mvd_ds.files import ConfigError
from mvd_ds.tools.bench.data_table import TABLE_WIDTH, write_result
from mvd_ds.tools.parser import USER_FAULT, Parser, positive

BOUNDS = {"time_off_by": 0.15, "memory_off_by": 0.10}
"""Largest share by which a plan may be off."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON; return 1 if a plan is off by more than its bound, 2 for a user's mistake."""
    parsed = _parser().parse_args(arguments)
    options = GrowthOptions(tuple(parsed.axes), parsed.steps, tuple(parsed.processes), parsed.device)
    try:
        result = measure_growth(parsed.recipe, parsed.overrides, options)
    except ConfigError as error:
        print(f"growth: {error}", file=sys.stderr)
        return USER_FAULT
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    console.print(_table(result))
    worst = {key: max((abs(case[key]) for case in result["cases"] if case[key] is not None), default=0.0) for key in BOUNDS}
    console.print(
        f"The plan is off by at most {worst['time_off_by']:.0%} of a step's time (bound {BOUNDS['time_off_by']:.0%}) and "
        f"{worst['memory_off_by']:.0%} of its memory (bound {BOUNDS['memory_off_by']:.0%}) in {len(result['cases'])} cases. "
        f"Arithmetic reaches {result['efficiency_at_base']:.0%} of the {result['matrix_tflops']:.3g} TFLOP/s measured here; "
        "this share is taken from the base case.",
        soft_wrap=True,
        highlight=False,
    )
    write_result(result, parsed.output)
    return int(any(worst[key] > bound for key, bound in BOUNDS.items()))


def _parser() -> Parser:
    parser = Parser(prog="growth", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe that distills, or a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings of the base case (small ones on a CPU)")
    axes = (*AXES, PROCESSES)
    parser.add_argument("--axes", nargs="+", choices=axes, default=list(axes), help="what is changed (default: all)")
    parser.add_argument("--steps", type=positive, default=7, metavar="COUNT", help="timed steps of a case (default %(default)s)")
    counts = "numbers of processes (default: 1 2 4; on GPUs as many as there are)"
    parser.add_argument("--processes", type=positive, nargs="+", default=[1, 2, 4], metavar="COUNT", help=counts)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write")
    return parser


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"A step of {result['recipe']} on {result['label']}", title_justify="left")
    for name in ("axis", "value", "ms", "planned", "off by", "GiB", "planned", "off by"):
        table.add_column(name, justify="left" if name == "axis" else "right")
    for case in result["cases"]:
        state = "state_" if case["axis"] == PROCESSES else ""
        gib, planned = case.get(f"measured_{state}gib"), case[f"planned_{state}gib"]
        table.add_row(
            case["axis"],
            "" if case["axis"] == "base" else str(case["value"]),
            f"{case['measured_milliseconds']:.4g}",
            f"{case['planned_milliseconds']:.4g}",
            f"{case['time_off_by']:+.1%}",
            "-" if gib is None else f"{gib:.3f}",
            f"{planned:.3f}",
            "-" if case["memory_off_by"] is None else f"{case['memory_off_by']:+.1%}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
