"""A chart of models as points in the plane of two labels, each with its name beside it."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from mvd_ds.tools.report.charts import LETTER, ROUND, STAND_INS, STYLE, WIDTH, as_svg, panel, short_name

HEIGHT = 270.0
LEFT, RIGHT, BOTTOM, TOP = 44.0, 10.0, 30.0, 8.0
LINE_HEIGHT = 9.5
"""Points between the baselines of two names."""
MARKER = 3.0
"""Radius of a point, in points."""
_DISTANCES = (5.0, 14.0, 24.0, 36.0, 50.0)
"""Points between a model and its name, tried one after another; from the second on a line joins them."""
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


class Point(NamedTuple):
    """A model: percent of each label with the 95 % interval, and the name of its colour."""

    name: str
    x: float
    y: float
    x_span: tuple[float, float]
    y_span: tuple[float, float]
    colour: str


class Box(NamedTuple):
    """A rectangle in points from the lower left corner of the axes."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Return whether the two overlap."""
        return self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top

    def within(self, width: float, height: float) -> bool:
        """Return whether the rectangle lies inside axes of this size."""
        return self.left >= 0 and self.bottom >= 0 and self.right <= width and self.top <= height


def plane_chart(points: list[Point], chances: tuple[float | None, float | None], labels: tuple[str, str]) -> Markup:
    """Draw points with their intervals as crosses, their names beside them, and dotted lines at chance."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(WIDTH, HEIGHT, left=LEFT, right=RIGHT, bottom=BOTTOM, top=TOP)
        for line, chance in zip((axes.axvline, axes.axhline), chances, strict=True):
            if chance is not None:
                line(chance, color=STAND_INS["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
        for point in points:
            colour = STAND_INS[point.colour]
            axes.plot(point.x_span, (point.y, point.y), color=colour, linewidth=1.0)
            axes.plot((point.x, point.x), point.y_span, color=colour, linewidth=1.0)
            axes.plot(point.x, point.y, color=colour, marker="o", markersize=5.0)
        axes.set_xlim(_limits([point.x_span for point in points]))
        axes.set_ylim(_limits([point.y_span for point in points]))
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP
        (x_low, x_high), (y_low, y_high) = axes.get_xlim(), axes.get_ylim()
        places = [
            (width * (point.x - x_low) / (x_high - x_low), height * (point.y - y_low) / (y_high - y_low)) for point in points
        ]
        names = [short_name(point.name) for point in points]
        for name, (x, y), box in zip(names, places, place_names(names, places, width, height), strict=True):
            middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
            axes.annotate(name, middle, xycoords="axes points", ha="center", va="center", color=STAND_INS["ink"])
            nearest = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
            if abs(nearest[0] - x) + abs(nearest[1] - y) > 1.5 * _DISTANCES[0]:
                line_style = {"arrowstyle": "-", "color": STAND_INS["muted"], "linewidth": 0.5}
                axes.annotate("", (x, y), nearest, "axes points", "axes points", arrowprops=line_style)
        axes.grid(True)
        for axis, label in ((axes.xaxis, labels[0]), (axes.yaxis, labels[1])):
            axis.set_major_locator(MaxNLocator(6, steps=ROUND))
            axis.set_label_text(f"“{label}”, held-out top-1 (%)")
        said = "; ".join(f"{point.name} {point.x:.1f}, {point.y:.1f}" for point in points)
        return as_svg(figure, f"top-1 (%) on {labels[0]} and {labels[1]}: {said}")


def place_names(names: list[str], places: list[tuple[float, float]], width: float, height: float) -> list[Box]:
    """Return a rectangle for each name, as near to its point as names, points and the edges of the axes allow.

    Args:
        names: texts of one line.
        places: points of the names, in points from the lower left corner of the axes.
        width: width of the axes in points.
        height: height of the axes in points.
    """
    taken = [Box(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in places]
    boxes = []
    for name, (x, y) in zip(names, places, strict=True):
        size = LETTER * len(name)
        candidates = [_beside(x, y, size, distance, direction) for distance in _DISTANCES for direction in _DIRECTIONS]
        free = (box for box in candidates if box.within(width, height) and not any(box.meets(other) for other in taken))
        boxes.append(next(free, candidates[0]))
        taken.append(boxes[-1])
    return boxes


def _beside(x: float, y: float, size: float, distance: float, direction: tuple[int, int]) -> Box:
    across, up = direction
    left = x + distance if across > 0 else x - distance - size if across < 0 else x - size / 2
    bottom = y - LINE_HEIGHT / 2 + up * (distance + LINE_HEIGHT / 2)
    return Box(left, bottom, left + size, bottom + LINE_HEIGHT)


def _limits(spans: list[tuple[float, float]]) -> tuple[float, float]:
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    room = (high - low) * 0.12 + 1.0
    return low - room, high + room
