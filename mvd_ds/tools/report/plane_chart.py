"""A chart of models as points in the plane of two labels, each with its name beside it."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mvd_ds.tools.report.charts import LETTER, ROUND, STAND_INS, STYLE, WIDTH, as_svg, panel, short_name

HEIGHT = 270.0
LEFT, RIGHT, BOTTOM, TOP = 44.0, 10.0, 30.0, 8.0
LINE_HEIGHT = 9.5
"""Points between the baselines of two names."""
MARKER = 3.0
"""Radius of a point, in points."""
_DISTANCES = (3.5, 7.0, 14.0, 24.0, 36.0, 50.0)
"""Points between a cross and its name, tried one after another."""
_JOINED_FROM = 24.0
"""Points between a model and its name from which on a line joins them."""
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


class Cross(NamedTuple):
    """A point and its intervals, in points from the lower left corner of the axes."""

    x: float
    y: float
    span: Box

    def boxes(self) -> list[Box]:
        """Return the rectangles that the marker and the two arms cover."""
        return [
            Box(self.x - MARKER, self.y - MARKER, self.x + MARKER, self.y + MARKER),
            Box(self.span.left, self.y - 1, self.span.right, self.y + 1),
            Box(self.x - 1, self.span.bottom, self.x + 1, self.span.top),
        ]


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
        axes.set_xlim(_limits([point.x_span for point in points], chances[0]))
        axes.set_ylim(_limits([point.y_span for point in points], chances[1]))
        size = (WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP)
        scales = [(high - low) / side for (low, high), side in zip((axes.get_xlim(), axes.get_ylim()), size, strict=True)]
        crosses = [_cross(point, (axes.get_xlim()[0], axes.get_ylim()[0]), (scales[0], scales[1])) for point in points]
        _write_names(axes, [short_name(point.name) for point in points], crosses, size)
        axes.grid(True)
        for axis, label in ((axes.xaxis, labels[0]), (axes.yaxis, labels[1])):
            axis.set_major_locator(MaxNLocator(6, steps=ROUND))
            axis.set_label_text(f"“{label}”, held-out top-1 (%)")
        said = "; ".join(f"{point.name} {point.x:.1f}, {point.y:.1f}" for point in points)
        return as_svg(figure, f"top-1 (%) on {labels[0]} and {labels[1]}: {said}")


def place_names(names: list[str], crosses: list[Cross], width: float, height: float) -> list[Box]:
    """Return a rectangle for each name, as near to its point as names, crosses and the edges of the axes allow.

    Args:
        names: texts of one line.
        crosses: points of the names with their intervals.
        width: width of the axes in points.
        height: height of the axes in points.
    """
    taken = [box for cross in crosses for box in cross.boxes()]
    found = []
    for name, cross in zip(names, crosses, strict=True):
        size = LETTER * len(name)
        tried = [_beside(cross, size, distance, direction) for distance in _DISTANCES for direction in _DIRECTIONS]
        free = (box for box in tried if box.within(width, height) and not any(box.meets(other) for other in taken))
        found.append(next(free, tried[0]))
        taken.append(found[-1])
    return found


def _write_names(axes: Axes, names: list[str], crosses: list[Cross], size: tuple[float, float]) -> None:
    """Write every name into its place, and join it with its point where they are apart."""
    for name, cross, box in zip(names, crosses, place_names(names, crosses, *size), strict=True):
        middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
        axes.annotate(name, middle, xycoords="axes points", ha="center", va="center", color=STAND_INS["ink"])
        nearest = (min(max(cross.x, box.left), box.right), min(max(cross.y, box.bottom), box.top))
        if abs(nearest[0] - cross.x) + abs(nearest[1] - cross.y) > _JOINED_FROM:
            line = {"arrowstyle": "-", "color": STAND_INS["muted"], "linewidth": 0.5}
            axes.annotate("", (cross.x, cross.y), nearest, "axes points", "axes points", arrowprops=line)


def _cross(point: Point, origin: tuple[float, float], scales: tuple[float, float]) -> Cross:
    x, left, right = ((value - origin[0]) / scales[0] for value in (point.x, *point.x_span))
    y, bottom, top = ((value - origin[1]) / scales[1] for value in (point.y, *point.y_span))
    return Cross(x, y, Box(left, bottom, right, top))


def _beside(cross: Cross, size: float, distance: float, direction: tuple[int, int]) -> Box:
    """Return a rectangle of this length away from a cross: beside the arm that points there, or between two arms."""
    across, up = direction
    is_between = across and up
    right, left = (cross.x, cross.x) if is_between else (cross.span.right, cross.span.left)
    top, bottom = (cross.y, cross.y) if is_between else (cross.span.top, cross.span.bottom)
    start = right + distance if across > 0 else left - distance - size if across < 0 else cross.x - size / 2
    middle = top + distance if up > 0 else bottom - distance if up < 0 else cross.y
    base = middle - (LINE_HEIGHT / 2 if not up else LINE_HEIGHT if up < 0 else 0.0)
    return Box(start, base, start + size, base + LINE_HEIGHT)


def _limits(spans: list[tuple[float, float]], chance: float | None) -> tuple[float, float]:
    ends = [end for span in spans for end in span] + ([] if chance is None else [chance])
    low, high = min(ends), max(ends)
    room = (high - low) * 0.12 + 1.0
    return low - room, high + room
