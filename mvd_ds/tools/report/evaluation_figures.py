"""Figures of an evaluation: the confusion matrix, confidence beside accuracy, and the classes of lowest accuracy."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mvd_ds.files import one_line, write_bytes
from mvd_ds.tools.report.charts import LETTER, ROUND, STAND_INS, STYLE, Bar, as_svg, bar_chart, panel, short_name

NAMED_CLASSES = 40
"""More classes than this have no names beside the matrix: they would be smaller than a letter."""
NUMBERED_CLASSES = 25
"""More classes than this have no numbers in the matrix."""
WORST_CLASSES = 25
"""Number of classes in the bar chart."""


def confusion_picture(confusion: list[list[int]], classes: list[str], path: Path) -> bytes:
    """Write the confusion matrix as a PNG and return it: rows are true classes, colours shares of them, numbers videos."""
    counts = np.asarray(confusion, dtype=np.float64)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    named, numbered = len(classes) <= NAMED_CLASSES, len(classes) <= NUMBERED_CLASSES
    side = max(2.4, (0.34 if numbered else 0.2) * len(classes)) if named else 7.0
    names = [short_name(name) for name in classes]
    margin = LETTER / 72 * max(map(len, names)) + 0.5 if named else 0.6
    with matplotlib.rc_context({"font.size": 8.0, "text.parse_math": False}):
        figure = Figure(figsize=(side + margin + 0.9, side + margin + 0.1), dpi=150, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        figure.colorbar(picture, ax=axes, shrink=0.7, label="% of the true class")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if named:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        if numbered:
            for true, predicted in np.argwhere(counts > 0):
                colour = "white" if shares[true, predicted] > 55 else "#1d2127"
                axes.text(predicted, true, f"{counts[true, predicted]:.0f}", ha="center", va="center", color=colour)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    write_bytes(path, stream.getvalue())
    return stream.getvalue()


def worst_classes(classes: list[str], per_class: list[dict[str, Any]]) -> Markup | None:
    """Return bars of the classes with the lowest accuracy; None without a class that has a sample."""
    known = [(row["top1"], name, row["samples"]) for name, row in zip(classes, per_class, strict=True) if row["samples"]]
    if not known:
        return None
    bars = [
        Bar(f"{one_line(name, 16)} ({samples})", 100 * share, None, "calm")
        for share, name, samples in sorted(known, key=lambda entry: entry[0])[:WORST_CLASSES]
    ]
    return bar_chart(bars, None, "top-1 (%)")


def reliability_chart(calibration: list[dict[str, float]]) -> Markup | None:
    """Return accuracy over confidence, by bin; on the diagonal they are equal. None with a single bin, which shows no course."""
    if len(calibration) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(290.0, 250.0, left=44.0, right=10.0, bottom=32.0, top=8.0)
        axes.plot((0, 100), (0, 100), color=STAND_INS["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
        confidence, accuracy = ([100 * row[key] for row in calibration] for key in ("confidence", "accuracy"))
        most = max(row["samples"] for row in calibration)
        sizes = [6 + 70 * row["samples"] / most for row in calibration]
        axes.plot(confidence, accuracy, color=STAND_INS["accent"])
        axes.scatter(confidence, accuracy, s=sizes, color=STAND_INS["accent"], linewidths=0)
        axes.grid(axis="y")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axes.set_xlim(0, 104)
        axes.set_ylim(0, 104)
        axes.set_xlabel("confidence (%)")
        axes.set_ylabel("right (%)")
        return as_svg(figure, "accuracy over confidence")
