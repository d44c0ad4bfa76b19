"""Accuracy over the blocks of networks, with bands for the intervals."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from mvd_ds.files import one_line
from mvd_ds.tools.report.charts import ROUND, STAND_INS, STYLE, as_svg, panel


class DepthLine(NamedTuple):
    """A curve over blocks, shares in [0, 1]."""

    blocks: list[int]
    shares: list[float]
    spans: list[tuple[float, float]]
    colour: str


def depth_chart(lines: list[DepthLine], chance: float | None, y_label: str) -> Markup:
    """Draw shares in percent over the numbers of blocks, from 0, with bands of their intervals and a line at chance."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(300.0, 190.0, left=44.0, right=10.0, bottom=30.0, top=10.0)
        for line in lines:
            low, high = ([100 * end for end in ends] for ends in zip(*line.spans, strict=True))
            axes.fill_between(line.blocks, low, high, color=STAND_INS[line.colour], alpha=0.15, linewidth=0)
            axes.plot(
                line.blocks, [100 * share for share in line.shares], color=STAND_INS[line.colour], marker="o", markersize=2.6
            )
        if chance is not None:
            axes.axhline(100 * chance, color=STAND_INS["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axes.set_xlabel("block, from 0")
        axes.set_ylabel(one_line(y_label))
        return as_svg(figure, f"{y_label} over blocks")
