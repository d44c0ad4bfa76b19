"""Panels of runs: two of one kind stand beside each other, in units that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.tools.report.run_figures import loss_figures, shared_figures
from mvd_ds.tools.report.run_records import Curve, RunRecord, RunStatus


def run_of(name: str, objective: str = "classification", **curves: list[float]) -> RunRecord:
    found = {key.replace("__", "/"): Curve(list(range(1, len(values) + 1)), values) for key, values in curves.items()}
    return RunRecord(name, Path(name), {"objective": objective}, "", RunStatus(), found)


def panels(runs: list[RunRecord]) -> list[str]:
    groups = {group.title: group for group in loss_figures(runs)}
    return [figure.title for figure in groups["Runs beside each other"].figures] if "Runs beside each other" in groups else []


def test_fine_tuned_runs_stand_beside_each_other() -> None:
    runs = [run_of(name, loss__class=[2.0, 1.0]) for name in ("a", "b")]
    assert panels(runs) == ["Loss on class"] and panels(runs[:1]) == []
    (chart,) = (figure.charts[0][1] for group in loss_figures(runs)[-1:] for figure in group.figures)
    assert "loss (cross-entropy)" in chart and chart.count("var(--series-0)") and chart.count("var(--series-1)")


def test_losses_of_two_kinds_have_no_axis_in_common() -> None:
    kinds = ["l1", "l2"]
    runs = [run_of(kind, "distillation", loss__video=[2.0, 1.0]) for kind in kinds]
    for run, kind in zip(runs, kinds, strict=True):
        run.recipe["teachers"] = {"video": {"loss": kind}}
    assert panels(runs) == []
    for run in runs:
        run.curves["loss_relative/video"] = Curve([1, 2], [1.0, 0.5])
    assert panels(runs) == ["Relative loss on video"]


@pytest.mark.parametrize(("peak", "unit"), [(0.25, "MiB"), (2.0, "GiB")])
def test_memory_has_a_unit_that_can_be_read(peak: float, unit: str) -> None:
    (group,) = shared_figures([run_of("a", memory__peak_gib=[peak, peak])])
    (figure,) = group.figures
    assert (group.title, figure.title) == ("Speed and memory", "Memory, peak per process")
    assert f">{unit}<" in figure.charts[0][1] and (">200<" in figure.charts[0][1]) == (unit == "MiB")
