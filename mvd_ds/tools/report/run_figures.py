"""Figures of training runs: what each learned from every target, and how fast, at which cost."""

from __future__ import annotations

from typing import NamedTuple

from mvd_ds.tools.report.charts import Line, line_chart
from mvd_ds.tools.report.markup import Html, colour_key, element, figure
from mvd_ds.tools.report.run_records import Curve, RunRecord

SERIES = 8
LOSS_WORDS = {"smooth_l1": "smooth L1", "l1": "L1", "l2": "squared error", "cosine": "cosine"}


class Shared(NamedTuple):
    """A metric that all runs share one panel for."""

    metric: str
    title: str
    y_label: str
    from_zero: bool = True
    scale: float = 1.0


SPEED = [
    Shared("perf/clips_per_second", "Throughput", "clips per second"),
    Shared("perf/data_wait_share", "Waiting for data", "share of time (%)", scale=100.0),
    Shared("memory/peak_gib", "Memory, peak per process", "GiB"),
    Shared("perf/mfu", "Model FLOP/s of the device's peak", "share of peak (%)", scale=100.0),
]
OPTIMIZATION = [
    Shared("optim/lr", "Learning rate", "learning rate (no unit)"),
    Shared("optim/gradient_norm", "Gradient norm", "L2 norm (no unit)", from_zero=False),
    Shared("student/effective_rank", "Effective rank of features", "dimensions"),
]


def loss_figures(runs: list[RunRecord]) -> Html | None:
    """One row of panels per training run, None if there is none."""
    trained = [run for run in runs if run.curves]
    rows = [_losses_of(run, _colour(place)) for place, run in enumerate(trained) if _targets(run)]
    if not rows:
        return None
    note = (
        "Losses are means per element of the target. The relative loss is the loss over that of always predicting the mean "
        "target: 1 is no better than that mean, 0 is perfect. "
        "A prediction whose variance stays far below its target's has found little but the mean."
    )
    return element("section", element("h2", "Losses"), element("p", note, class_="quiet"), *rows, _compared(trained))


def machine_figures(runs: list[RunRecord]) -> Html | None:
    """Optimization and speed, the runs together in each panel; None without any curve."""
    trained = [run for run in runs if run.curves]
    if not trained:
        return None
    key = colour_key([(run.name, _colour(place)) for place, run in enumerate(trained)]) if len(trained) > 1 else None
    sections = []
    probes = dict.fromkeys(name for run in trained for name in run.curves if name.startswith("probe/"))
    learnt = [
        Shared(name, f"Nearest neighbours on “{name[len('probe/') : -len('_top1')]}”", "top-1 (%)", scale=100.0)
        for name in probes
    ]
    for title, panels in (("Optimization and features", [*learnt, *OPTIMIZATION]), ("Speed and memory", SPEED)):
        figures = [drawn for panel in panels if (drawn := _shared(trained, panel))]
        if figures:
            sections.append(
                element("section", element("h2", title), key, element("div", *figures, class_="panels"), class_="together")
            )
    return Html("".join(sections))


def _shared(runs: list[RunRecord], panel: Shared) -> Html | None:
    lines = [
        Line(Curve(curve.steps, [panel.scale * value for value in curve.values]), _colour(place))
        for place, run in enumerate(runs)
        if (curve := run.curves.get(panel.metric))
    ]
    if not lines:
        return None
    return figure(panel.title, line_chart(lines, panel.y_label, from_zero=panel.from_zero))


def _targets(run: RunRecord) -> list[str]:
    """What the run learned to predict, in the order of its recipe."""
    logged = [name.partition("/")[2] for name in run.curves if name.startswith("loss/") and name != "loss/total"]
    known = [name for name in run.loss_names() if name in logged]
    return known + sorted(set(logged) - set(known))


def _losses_of(run: RunRecord, colour: str) -> Html:
    targets = _targets(run)
    colours = {target: _colour(place) for place, target in enumerate(targets)} if len(targets) > 1 else {targets[0]: colour}
    losses = [Line(run.curves[f"loss/{target}"], colours[target]) for target in targets]
    if len(targets) > 1 and "loss/total" in run.curves:
        losses.append(Line(run.curves["loss/total"], "ink"))
    kinds = list(dict.fromkeys(LOSS_WORDS.get(kind, kind) for kind in run.loss_names().values() if kind))
    figures = [figure("Loss", line_chart(losses, f"loss ({', '.join(kinds) or 'no unit'})"))]
    relative = [
        Line(run.curves[name], colours[target]) for target in targets if (name := f"loss_relative/{target}") in run.curves
    ]
    if relative:
        figures.append(figure("Relative loss", _relative_chart(relative)))
    variances = [
        Line(run.curves[name], colours[target], dashed=side == "target")
        for target in targets
        for side in ("prediction", "target")
        if (name := f"{side}/variance_{target}") in run.curves
    ]
    if variances:
        chart = line_chart(variances, "variance (squared units)", from_zero=True)
        figures.append(figure("Variance (targets dashed)", chart))
    names = [*colours.items(), *([("total", "ink")] if len(losses) > len(targets) else [])]
    panels = element("div", *figures, class_="panels")
    return element("div", element("h3", run.name), colour_key(names), panels, class_="together")


def _compared(runs: list[RunRecord]) -> Html | None:
    """Runs of one objective with a target in common, in one panel per target; None without such."""
    figures: list[Html] = []
    used: dict[str, str] = {}
    for objective in dict.fromkeys(run.objective for run in runs):
        alike = [(run, _colour(place)) for place, run in enumerate(runs) if run.objective == objective]
        for target in dict.fromkeys(target for run, _ in alike for target in _targets(run)):
            metric = f"loss_relative/{target}"
            sharing = [(run, colour) for run, colour in alike if metric in run.curves]
            if len(sharing) > 1:
                lines = [Line(run.curves[metric], colour) for run, colour in sharing]
                used |= {run.name: colour for run, colour in sharing}
                figures.append(figure(f"Relative loss on {target}", _relative_chart(lines)))
    if not figures:
        return None
    panels = element("div", *figures, class_="panels")
    return element("div", element("h3", "Runs beside each other"), colour_key(list(used.items())), panels)


def _relative_chart(lines: list[Line]) -> Html:
    # Far above 1 at the start, the axis would hide the rest: then it is logarithmic.
    highest = max(value for line in lines for value in line.curve.values)
    return line_chart(lines, "loss / loss of the mean", from_zero=highest < 3, reference=(1.0, "predicting the mean"))


def _colour(place: int) -> str:
    return f"series-{place % SERIES}"
