"""Figures of networks that tell several classes or a real number, beside each other: what ``report`` shows of their runs."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mvd_ds.files import counted
from mvd_ds.tools.report.formatting import MISSING, percent, span
from mvd_ds.tools.report.templating import Cell, Row, Table, cells


class Answers(BaseModel, allow_inf_nan=False):
    """The figures in ``evaluation.json`` or ``validation.json`` of a task that is not one class of each video."""

    task: str
    samples: int
    map: float | None = None
    mae: float | None = None
    spearman: float | None = None
    r2: float | None = None
    intervals: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """95 % interval of each figure by name; of evaluations alone."""
    step: int | None = None
    """Step of a validation; None of an evaluation."""
    weights: str = ""
    manifest: str = ""

    @property
    def origin(self) -> str:
        """The measurement that they are of."""
        return (
            f"validation after step {self.step:,}"
            if self.step is not None
            else f"evaluation of {self.weights} on {self.manifest}"
        )

    def cell(self, name: str) -> Cell:
        """Return a figure with its interval as small print; mean average precision as a percentage."""
        value = getattr(self, name)
        if value is None:
            return Cell(MISSING)
        low, high = self.intervals.get(name, (None, None))
        shown = percent(value, 2) if name == "map" else f"{value:.4g}"
        if low is None or high is None:
            return Cell(shown)
        return Cell(shown, span(low, high) if name == "map" else f"{low:.4g} to {high:.4g}")


NOTE = (
    "mAP is the mean over classes of the average precision; Spearman's correlation compares the order of answers and labels; R2 "
    "is 1 for perfect answers and 0 for always telling the mean. Small print: a 95 % bootstrap interval over videos."
)


def answer_table(runs: list[tuple[str, Answers | None]]) -> Table | None:
    """Return a row for every run, by name, that measured such answers on held-out videos; None without any."""
    rows = [
        Row(name, [Cell(found.origin), *map(found.cell, ("map", "mae", "spearman", "r2")), *cells(f"{found.samples:,}")])
        for name, found in runs
        if found is not None
    ]
    return (
        Table(["run", "measured by", "mAP", "mean absolute error", "Spearman", "R2", "videos"], rows, "measured")
        if rows
        else None
    )


def answer_sentence(name: str, found: Answers) -> str:
    """Return how good a run's answers are."""
    if found.map is not None:
        return f"{name}: the mean average precision is {percent(found.map)} on {counted(found.samples, 'held-out video')}."
    if found.mae is not None:
        return f"{name}: answers are off by {found.mae:.4g} on average on {counted(found.samples, 'held-out video')}."
    return f"{name}: no figure is defined on {counted(found.samples, 'held-out video')}."
