"""Models as points in the plane of two labels: who knows *what*, who knows *how*, who knows both."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import matplotlib
from matplotlib.ticker import MaxNLocator

from mvd_ds.tools.report.charts import LETTER, ROUND, STAND_INS, STYLE, as_svg, panel
from mvd_ds.tools.report.markup import Html

WIDTH, HEIGHT = 398.0, 320.0
#: Points between the baselines of two names.
LINE_HEIGHT = 10.5


class Point(NamedTuple):
    """A model: percent of each label with the 95 % interval, and the name of its colour."""

    name: str
    x: float
    y: float
    x_span: tuple[float, float]
    y_span: tuple[float, float]
    colour: str


def plane_chart(points: list[Point], chances: tuple[float | None, float | None], labels: tuple[str, str]) -> Html:
    """Points with their intervals as crosses, names in a column beside them, and lines at chance."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(WIDTH, HEIGHT, left=44.0, right=10.0, bottom=30.0, top=8.0)
        lines = (axes.axvline, axes.axhline)
        for line, chance in zip(lines, chances, strict=True):
            if chance is not None:
                line(chance, color=STAND_INS["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
        for point in points:
            colour = STAND_INS[point.colour]
            axes.plot(point.x_span, (point.y, point.y), color=colour, linewidth=1.0)
            axes.plot((point.x, point.x), point.y_span, color=colour, linewidth=1.0)
            axes.plot(point.x, point.y, color=colour, marker="o", markersize=5.0)
        lows = [min(span[0] for span in spans) for spans in _spans(points)]
        highs = [max(span[1] for span in spans) for spans in _spans(points)]
        room = [(high - low) * 0.06 + 0.5 for low, high in zip(lows, highs, strict=True)]
        # Names stand in a column at the right, which the longest of them makes as wide as it takes.
        share = max(len(point.name) for point in points) * LETTER / (WIDTH - 54.0)
        column = highs[0] + 2 * room[0]
        left = lows[0] - room[0]
        axes.set_xlim(left, left + (column - left) / max(1 - share, 0.4))
        axes.set_ylim(lows[1] - room[1], highs[1] + room[1])
        for point, height in zip(points, _heights(points, axes.get_ylim()), strict=True):
            line = {"arrowstyle": "-", "color": STAND_INS["muted"], "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3}
            axes.annotate(point.name, (point.x, point.y), (column, height), va="center", color=STAND_INS["ink"], arrowprops=line)
        axes.grid(True)
        for axis, label in ((axes.xaxis, labels[0]), (axes.yaxis, labels[1])):
            axis.set_major_locator(MaxNLocator(6, steps=ROUND))
            axis.set_label_text(f"“{label}”, held-out top-1 (%)")
        said = "; ".join(f"{point.name} {point.x:.1f}, {point.y:.1f}" for point in points)
        return as_svg(figure, f"top-1 (%) on {labels[0]} and {labels[1]}: {said}")


def _spans(points: list[Point]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    return [point.x_span for point in points], [point.y_span for point in points]


def _heights(points: list[Point], limits: tuple[float, float]) -> list[float]:
    """Where each name stands: at the height of its point, or so far from it that no name lies on another."""
    gap = LINE_HEIGHT / (HEIGHT - 38.0) * (limits[1] - limits[0])
    order = sorted(range(len(points)), key=lambda place: points[place].y)
    heights = [point.y for point in points]
    for below, place in itertools.pairwise(order):
        heights[place] = max(heights[place], heights[below] + gap)
    ceiling = limits[1]
    for place in reversed(order):
        heights[place] = ceiling = min(heights[place], ceiling - gap)
    return heights
