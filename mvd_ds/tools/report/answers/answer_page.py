"""The page of an evaluation of several classes or of a real number, a row in ``PAGES`` for each task."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from mvd_ds.files import counted, one_line, write_text
from mvd_ds.tools.report.answers.answer_table import Answers
from mvd_ds.tools.report.charts import ROUND, STAND_INS, STYLE, Bar, as_svg, bar_chart, panel
from mvd_ds.tools.report.formatting import FEW_CLIPS, MISSING, few_clips, percent
from mvd_ds.tools.report.templating import Cell, Definition, Figure, Row, Table, cells, figure, render
from mvd_ds.training.console import say

SHOWN_CLASSES = 25
"""Number of classes in the bar chart."""
MAX_VIDEOS = 200
"""Number of unreadable videos that the page names; evaluation.json names all."""


class Parts(NamedTuple):
    """The parts of a page that only its task has."""

    lead: str
    summary: list[tuple[str, Cell]]
    picture: Figure | None
    classes: Table | None
    unreadable: str
    """What becomes of videos that cannot be read."""


def write_answer_page(folder: Path, results: dict[str, Any], places: list[Definition]) -> None:
    """Write ``evaluation.html`` of a task of ``PAGES``.

    Args:
        folder: folder of the evaluation.
        results: content of its ``evaluation.json``.
        places: where the results come from.
    """
    parts = PAGES[results["task"]](results, Answers.model_validate(results))
    views, samples = results["views"], results["samples"]
    faults = [fault.partition(": ") for fault in results["unreadable_videos"]]
    rows = [Row(path, cells(reason), is_code=True) for path, _, reason in faults[:MAX_VIDEOS]]
    summary = [*parts.summary, ("videos", Cell(f"{samples:,}")), (parts.unreadable, Cell(f"{results['unreadable']:,}"))]
    page = render(
        "answers",
        title=f"Evaluation of {results['weights']}",
        subtitle=(
            f"{results['manifest']}, label {results['label']}: {counted(samples, 'video')}, {views['segments']} x "
            f"{views['crops']} views each. Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}"
        ),
        lead=parts.lead,
        attention=[few_clips(samples, "video")] if samples < FEW_CLIPS else [],
        summary=Table(
            ["", ""], [Row(name, [cell], "" if place else "first") for place, (name, cell) in enumerate(summary)], "pairs"
        ),
        picture=parts.picture,
        classes=parts.classes,
        unreadable=Table(["video", "reason"], rows, "words") if rows else None,
        unreadable_note=f"{len(faults) - MAX_VIDEOS:,} more are named in evaluation.json." if len(faults) > MAX_VIDEOS else "",
        places=[*places, Definition("small print", "95 % bootstrap intervals over the videos")],
    )
    write_text(folder / "evaluation.html", page)
    say(f"{one_line(folder / 'evaluation.html')}, evaluation.json and predictions.csv")


def _several(results: dict[str, Any], found: Answers) -> Parts:
    """Return the parts of a page of several classes."""
    named = list(zip(results["classes"], results["per_class"], strict=True))
    known = sorted(((row["ap"], name, row["samples"]) for name, row in named if row["ap"] is not None), key=lambda row: row[0])
    bars = [Bar(f"{one_line(name, 16)} ({samples})", 100 * ap, None, "calm") for ap, name, samples in known[:SHOWN_CLASSES]]
    rows = [Row(name, cells(MISSING if row["ap"] is None else percent(row["ap"]), f"{row['samples']:,}")) for name, row in named]
    summary = [("mean average precision", found.cell("map"))]
    if results["always_all"] is not None:
        summary.append(("the same score for every video", Cell(percent(results["always_all"], 2))))
    summary.append(("classes without a video, left out", Cell(f"{len(results['classes_without_positives']):,}")))
    summary.append(("classes with equal scores of right and wrong videos", Cell(f"{results['classes_with_ties']:,}")))
    drawn = bar_chart(bars, None, "average precision (%)") if bars else None
    lead = "No video has any of the classes." if found.map is None else f"The mean average precision is {percent(found.map)}."
    return Parts(
        lead,
        summary,
        figure("Lowest average precision, with the number of videos", drawn),
        Table(["class", "average precision", "videos"], rows),
        "unreadable videos, counted as wrong",
    )


def _real(results: dict[str, Any], found: Answers) -> Parts:
    """Return the parts of a page of a real number."""
    titles = {"mae": "mean absolute error", "spearman": "Spearman's correlation", "r2": "R2"}
    summary = [(title, found.cell(name)) for name, title in titles.items()]
    constant = results["mae_of_training_mean"]
    if constant is not None:
        summary.insert(1, ("error of always telling the training mean", Cell(f"{constant:.4g}")))
    lead = "No video could be read." if found.mae is None else f"Answers are off by {found.mae:.4g} on average."
    picture = figure("Answers over labels", _scatter(results["points"]), "On the dotted line the answer is the label.")
    return Parts(lead, summary, picture, None, "unreadable videos, left out")


def _scatter(points: list[list[float]]) -> Markup | None:
    """Return answers over labels; None without two videos."""
    if len(points) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        drawn, axes = panel(290.0, 250.0, left=44.0, right=10.0, bottom=32.0, top=8.0)
        wanted, answers = ([point[side] for point in points] for side in (0, 1))
        ends = [min(*wanted, *answers), max(*wanted, *answers)]
        axes.plot(ends, ends, color=STAND_INS["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
        axes.scatter(wanted, answers, s=6, color=STAND_INS["accent"], linewidths=0, rasterized=len(points) > 2000)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axes.set_xlabel("label")
        axes.set_ylabel("answer")
        return as_svg(drawn, "answers over labels")


PAGES: dict[str, Callable[[dict[str, Any], Answers], Parts]] = {"multilabel": _several, "regression": _real}
"""What the page shows of every task but one class of each video."""
