"""Charts as inline SVG in the colours of the page, so that one drawing serves light and dark pages and paper."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mvd_ds.files import one_line
from mvd_ds.tools.report.formatting import proper_minus
from mvd_ds.tools.report.run_records import Curve

SERIES = 8
"""Number of colours for curves; more curves than this repeat them."""
COLOURS = ("ink", "muted", "rule", "paper", "accent", "calm", "faint", *(f"series-{index}" for index in range(SERIES)))
"""Colours of drawings, which the page's style sheet defines as ``--NAME``."""
STAND_INS = {name: f"#00fe{index:02x}" for index, name in enumerate(COLOURS)}
"""Colours that matplotlib draws with; in the SVG the page's own take their place."""
MAX_POINTS = 240
"""Points that a curve is thinned to: a month of training must not make a page of megabytes."""
FEW_POINTS = 16
"""Curves of fewer points show them."""
LOG_FROM = 12.0
"""The axis is logarithmic from this ratio of the largest to the smallest value on."""
WIDTH = 300.0
"""Points of a drawing's width: at 390 px the letters are still 9 px high."""
LETTER, ROW = 4.9, 17.0
"""Width of a letter and height of a row of text, in points at ``font.size``."""
LONGEST_NAME = 24
"""Letters after which names are cut."""
ROUND = [1, 2, 2.5, 5, 10]
"""Steps between ticks, as the locator wants them."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mvd_ds",
    "font.size": 8.0,
    "text.parse_math": False,  # a model or a run may be called $x$
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "axes.edgecolor": STAND_INS["rule"],
    "axes.labelcolor": STAND_INS["muted"],
    "text.color": STAND_INS["ink"],
    "xtick.color": STAND_INS["rule"],
    "ytick.color": STAND_INS["rule"],
    "xtick.labelcolor": STAND_INS["muted"],
    "ytick.labelcolor": STAND_INS["muted"],
    "xtick.major.size": 2.5,
    "ytick.major.size": 0.0,
    "grid.color": STAND_INS["rule"],
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}

_serial = itertools.count()


class Line(NamedTuple):
    """A curve, the name of its colour, and its style."""

    curve: Curve
    colour: str
    dashed: bool = False


class Bar(NamedTuple):
    """A share in percent, the span of its whisker if it has one, and the name of its colour."""

    name: str
    value: float
    span: tuple[float, float] | None
    colour: str


class Interval(NamedTuple):
    """A difference in percentage points, and its interval."""

    name: str
    value: float
    low: float
    high: float


def line_chart(
    lines: list[Line],
    y_label: str,
    *,
    from_zero: bool = False,
    reference: tuple[float, str] | None = None,
    x_label: str = "optimizer step",
) -> Markup | None:
    """Draw curves over optimizer steps, or over the quantity that ``x_label`` names.

    Args:
        lines: the curves.
        y_label: the quantity that is drawn, with its unit.
        from_zero: start the axis at zero; otherwise it fits the values, and is logarithmic where they differ widely.
        reference: a horizontal line and its name.
        x_label: the quantity along the horizontal axis.

    Returns:
        The drawing; None if no curve has more than one point.
    """
    if max((len(line.curve.steps) for line in lines), default=0) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(262.0, 176.0, left=44.0, right=10.0, bottom=30.0, top=16.0)
        for line in lines:
            steps, values = thin(line.curve)
            axes.plot(
                steps,
                values,
                color=STAND_INS[line.colour],
                linestyle=(0, (3, 2)) if line.dashed else "-",
                marker="o" if len(steps) < FEW_POINTS else None,
                markersize=2.6,
            )
        if reference:
            value, name = reference
            axes.axhline(value, color=STAND_INS["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
            axes.annotate(
                name, (1, value), (0, 2.5), ("axes fraction", "data"), "offset points", ha="right", color=STAND_INS["muted"]
            )
        values = [value for line in lines for value in line.curve.values]
        _scale(axes, values + ([reference[0]] if reference else []), from_zero)
        axes.grid(axis="y")
        axes.set_xlabel(one_line(x_label))
        axes.set_ylabel(one_line(y_label))
        scale = f"{'logarithmic' if axes.get_yscale() == 'log' else 'linear'} axis"
        axes.annotate(scale, (0, 1), (-40, 6), "axes fraction", "offset points", fontsize=7.0, color=STAND_INS["muted"])
        axes.set_xlim(0, max(step for line in lines for step in line.curve.steps) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        return as_svg(figure, f"{y_label} by {x_label}")


def bar_chart(bars: list[Bar], chance: float | None, x_label: str) -> Markup:
    """Draw horizontal bars in percent, with whiskers and a line at chance."""
    with matplotlib.rc_context(STYLE):
        left = _name_width([bar.name for bar in bars])
        figure, axes = panel(WIDTH, ROW * len(bars) + 50.0, left=left, right=12.0, bottom=30.0, top=20.0)
        highest = max([bar.span[1] if bar.span else bar.value for bar in bars] + [chance or 0.0])
        limit = min(max(highest * 1.18, 5.0), 112.0)
        for place, bar in enumerate(bars):
            axes.barh(place, bar.value, height=0.62, color=STAND_INS[bar.colour], linewidth=0)
            end = bar.value
            if bar.span:
                axes.plot(bar.span, (place, place), color=STAND_INS["ink"], linewidth=0.9, marker="|", markersize=5.0)
                end = max(end, bar.span[1])
            axes.text(end + limit * 0.012, place, f"{bar.value:.1f}", va="center")
        if chance is not None:
            axes.axvline(chance, color=STAND_INS["ink"], linewidth=0.9, linestyle=(0, (3, 2)))
            at_right = chance > limit * 0.7
            axes.annotate(
                f"chance {chance:.3g} %",
                (chance, 1),
                (-3 if at_right else 3, 2),
                ("data", "axes fraction"),
                "offset points",
                ha="right" if at_right else "left",
                va="bottom",
            )
        _rows(axes, [short_name(bar.name) for bar in bars])
        axes.set_xlim(0, limit)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        axes.set_xlabel(x_label)
        return as_svg(figure, f"{x_label}: " + ", ".join(f"{bar.name} {bar.value:.1f}" for bar in bars))


def interval_chart(intervals: list[Interval], x_label: str) -> Markup:
    """Draw differences with their intervals around a line at zero; a point is hollow if its interval holds zero."""
    with matplotlib.rc_context(STYLE):
        names = [" minus ".join(map(short_name, interval.name.split(" minus "))) for interval in intervals]
        names = [name.replace(" minus ", "\nminus ") if len(name) > LONGEST_NAME else name for name in names]
        left = max(len(line) for name in names for line in name.split("\n")) * LETTER + 14.0
        row = ROW + (8.0 if any("\n" in name for name in names) else 4.0)
        # Beside long names the axis stays as wide as its own name.
        width = max(WIDTH, left + LETTER * len(x_label))
        figure, axes = panel(width, row * len(intervals) + 44.0, left=left, right=10.0, bottom=30.0, top=8.0)
        axes.axvline(0, color=STAND_INS["ink"], linewidth=0.9)
        for place, interval in enumerate(intervals):
            hollow = interval.low <= 0 <= interval.high
            colour = STAND_INS["muted" if hollow else "accent"]
            axes.plot((interval.low, interval.high), (place, place), color=colour, linewidth=1.8)
            fill = STAND_INS["paper"] if hollow else colour
            axes.plot(interval.value, place, color=colour, marker="o", markersize=5.5, markerfacecolor=fill)
        _rows(axes, names)
        low = min(0.0, *(interval.low for interval in intervals))
        high = max(0.0, *(interval.high for interval in intervals))
        room = max(high - low, 1.0) * 0.07
        axes.set_xlim(low - room, high + room)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: proper_minus(f"{value:+g}") if value else "0"))
        axes.set_xlabel(x_label)
        return as_svg(figure, x_label)


def thin(curve: Curve, points: int = MAX_POINTS) -> Curve:
    """Return at most ``points`` means of neighbours; the first and the last value stay as they are."""
    count = len(curve.steps)
    if count <= points:
        return curve
    edges = [1 + (count - 2) * place // (points - 2) for place in range(points - 1)]
    inner = [slice(start, end) for start, end in itertools.pairwise(edges)]
    steps = [round(sum(curve.steps[part]) / len(curve.steps[part])) for part in inner]
    values = [sum(curve.values[part]) / len(curve.values[part]) for part in inner]
    return Curve([curve.steps[0], *steps, curve.steps[-1]], [curve.values[0], *values, curve.values[-1]])


def panel(width: float, height: float, *, left: float, right: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """Return a figure of this many points with fixed margins, so that panels side by side line up."""
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height))
    return figure, axes


def _scale(axes: Axes, values: list[float], from_zero: bool) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    if from_zero:
        axes.set_ylim(0, (max(values) * 1.12 if values else 0) or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    elif values and min(values) > 0 and max(values) / min(values) > LOG_FROM:
        axes.set_yscale("log")
        decades = max(values) / min(values)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 300 else (1.0,), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))


def _short(value: float, _: int | None = None) -> str:
    """Return a tick label of few letters, so that it leaves room for the axis' name: 0.05, 1,200, 1.2e4, 5e-4."""
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e4 else f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    text = f"{value:.4g}" if value == 0 or abs(value) >= 0.01 else f"{value:.2e}"
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}" if exponent else text


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=STAND_INS["ink"], pad=5)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)


def _name_width(names: list[str]) -> float:
    return max(len(short_name(name)) for name in names) * LETTER + 14.0


def short_name(name: str) -> str:
    """Return ``name`` on one line, cut to ``LONGEST_NAME`` letters."""
    shown = one_line(name)
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…"


def as_svg(figure: Figure, label: str) -> Markup:
    """Return the drawing as one element with its own ids, in the colours and letters of the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    serial = f"chart{next(_serial)}-"
    text = re.sub(r'(\sid=")|(url\(#)|(xlink:href="#)', lambda match: match.group(0) + serial, text)
    for name, colour in STAND_INS.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(one_line(label))}"', 1).strip())
