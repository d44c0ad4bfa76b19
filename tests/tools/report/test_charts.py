"""Charts: names stand as they are, axes suit the numbers, long curves get short."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files

import pytest

from mvd_ds.tools.report.charts import COLOURS, MAX_POINTS, Bar, Interval, Line, bar_chart, interval_chart, line_chart, thin
from mvd_ds.tools.report.run_records import Curve


def words(chart: str | None) -> list[str]:
    """The texts of a chart; fails unless it is well-formed."""
    assert chart is not None
    return [text.text or "" for text in ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}text")]


def test_names_stand_as_they_are() -> None:
    name = '<a> & "b" $x_1$'
    chart = bar_chart([Bar(name, 40.0, (39.0, 41.0), "accent")], 12.5, "top-1 (%)")
    assert {name, "40.0", "chance 12.5 %", "top-1 (%)"} <= set(words(chart))
    assert ElementTree.fromstring(chart).get("aria-label") == f"top-1 (%): {name} 40.0"
    assert name in words(interval_chart([Interval(name, 1.0, -1.0, 3.0)], "points"))
    assert name in words(line_chart([Line(Curve([1, 2], [1.0, 2.0]), "ink")], name))


def test_only_colours_of_the_page_are_drawn() -> None:
    charts = [
        bar_chart([Bar("a", 40.0, (39.0, 41.0), "accent"), Bar("b", 9.0, None, "faint")], 12.5, "%"),
        interval_chart([Interval("a", 1.0, -1.0, 3.0), Interval("b", 2.0, 1.0, 3.0)], "points"),
        line_chart([Line(Curve([1, 2], [1.0, 2.0]), "series-3", dashed=True)], "loss", reference=(1.0, "mean")),
    ]
    for chart in charts:
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", chart)) == set()
        assert set(re.findall(r"var\(--([\w-]+)\)", chart)) <= set(COLOURS)
    style = files("mvd_ds.tools.report").joinpath("templates/style.css").read_text()
    for colour in COLOURS:
        assert style.count(f"--{colour}: #") >= 2, f"{colour} needs a light and a dark value"


def test_an_interval_that_holds_zero_is_hollow() -> None:
    decided = interval_chart([Interval("a", 2.0, 1.0, 3.0)], "points")
    undecided = interval_chart([Interval("a", 2.0, -0.5, 4.5)], "points")
    assert "var(--accent)" in decided and "fill: var(--paper)" not in decided
    assert "var(--accent)" not in undecided and "fill: var(--paper)" in undecided


@pytest.mark.parametrize(
    ("values", "from_zero", "ticks"),
    [
        ([1.0, 0.5, 0.2], False, {"0.2", "0.4", "0.6"}),
        ([100.0, 1.0, 0.1], False, {"0.1", "1", "10", "100"}),
        ([3.0, 2.0], True, {"0", "1", "2", "3"}),
        ([0.0, 0.0], True, {"0", "1"}),
        ([1e-3, 5e-4], True, {"2e-4", "1e-3"}),
        ([120_000.0, 10_000.0], True, {"0", "1e5"}),
        ([0.7, 0.7], False, {"0.7"}),
    ],
)
def test_an_axis_suits_its_numbers(values: list[float], from_zero: bool, ticks: set[str]) -> None:
    curve = Curve(list(range(10, 10 * len(values) + 1, 10)), values)
    found = set(words(line_chart([Line(curve, "ink")], "loss", from_zero=from_zero)))
    assert ticks <= found, found
    assert "optimizer step" in found


def test_long_runs_are_thinned_without_losing_their_ends() -> None:
    steps = list(range(10, 1_000_010, 10))
    curve = thin(Curve(steps, [float(step) for step in steps]))
    assert len(curve.steps) == len(curve.values) == MAX_POINTS
    assert (curve.values[0], curve.values[-1]) == (10.0, 1_000_000.0)
    assert curve.steps == sorted(curve.steps)
    assert curve.values == pytest.approx(curve.steps, rel=0, abs=6)
    short = Curve([1, 2], [0.1, 0.2])
    assert thin(short) == short


def test_the_kind_of_an_axis_is_said_and_a_single_dot_is_left_out() -> None:
    for values, said in (([1.0, 0.5], "linear axis"), ([100.0, 0.1], "logarithmic axis")):
        assert said in words(line_chart([Line(Curve([1, 2], values), "ink")], "loss"))
    dot = Line(Curve([1], [1.0]), "ink")
    assert line_chart([dot], "loss") is None and line_chart([], "loss") is None
    assert line_chart([dot, Line(Curve([1, 2], [1.0, 2.0]), "ink")], "loss"), "beside a curve the dot stays"


def test_control_characters_and_broken_bytes_in_names_are_escapes() -> None:
    chart = bar_chart([Bar("caf\udce9\x1b[2J", 40.0, None, "accent")], None, "top-1 (%)")
    assert r"caf\xe9\x1b[2J" in words(chart)
    chart.encode("utf-8")
