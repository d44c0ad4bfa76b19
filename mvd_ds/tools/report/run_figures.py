"""Figures of training runs: losses by target, accuracy, optimisation, speed and memory."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from mvd_ds.tools.report.charts import SERIES, Line, line_chart
from mvd_ds.tools.report.formatting import memory_unit
from mvd_ds.tools.report.loss_words import in_words
from mvd_ds.tools.report.run_records import Curve, RunRecord
from mvd_ds.tools.report.templating import ColourKey, Figure, figure


class Shared(NamedTuple):
    """A metric that all runs share one panel for."""

    metric: str
    title: str
    y_label: str
    from_zero: bool = True
    scale: float = 1.0


class Group(NamedTuple):
    """Figures under one heading, and the meaning of their colours."""

    title: str
    figures: list[Figure]
    key: ColourKey | None


ACCURACY = [
    Shared("val/top1", "Top-1 while training", "top-1 (%)", scale=100.0),
    Shared("val/top5", "Top-5 while training", "top-5 (%)", scale=100.0),
]
ANSWERED = [
    Shared("val/map", "Mean average precision while training", "mAP (%)", scale=100.0),
    Shared("val/mae", "Mean absolute error while training", "units of the label"),
    Shared("val/spearman", "Spearman's correlation while training", "correlation (no unit)", from_zero=False),
]
MEMORY = Shared("memory/peak_gib", "Memory, peak per process", "GiB")
SPEED = [
    Shared("perf/clips_per_second", "Throughput", "clips per second"),
    Shared("perf/data_wait_share", "Waiting for data", "share of time (%)", scale=100.0),
    MEMORY,
    Shared("perf/mfu", "Arithmetic, share of the device's peak", "share of peak (%)", scale=100.0),
]
OPTIMIZATION = [
    Shared("optim/lr", "Learning rate", "learning rate (no unit)"),
    Shared("optim/gradient_norm", "Gradient norm", "L2 norm (no unit)", from_zero=False),
    Shared("student/effective_rank", "Effective rank of features", "dimensions"),
]


def loss_figures(runs: list[RunRecord]) -> list[Group]:
    """Return a group of panels for every training run, and one of runs beside each other."""
    trained = [run for run in runs if run.curves]
    groups = [_losses_of(run, _colour(place)) for place, run in enumerate(trained)]
    return [group for group in (*groups, _compared(trained)) if group and group.figures]


def shared_figures(runs: list[RunRecord]) -> list[Group]:
    """Return panels of optimisation and of speed, all runs together in each."""
    labels = dict.fromkeys(label for run in runs for label in run.neighbours())
    learnt = [Shared(f"probe/{label}_top1", f"Label “{label}”", "top-1 (%)", scale=100.0) for label in labels]
    unit, scale = memory_unit(max(run.curves[MEMORY.metric].values) for run in runs if MEMORY.metric in run.curves)
    speed = [panel._replace(y_label=unit, scale=scale) if panel is MEMORY else panel for panel in SPEED]
    titles = {
        "Accuracy of nearest neighbours while training": learnt,
        "Learning rate, gradients and features": OPTIMIZATION,
        "Speed and memory": speed,
    }
    groups = [Group(title, shared_panels(runs, panels), _run_key(runs)) for title, panels in titles.items()]
    return [group for group in groups if group.figures]


def shared_panels(runs: list[RunRecord], panels: list[Shared]) -> list[Figure]:
    """Return a figure for each metric of ``panels`` that some run has more than one value of."""
    return [drawn for panel in panels if (drawn := _shared([run for run in runs if run.curves], panel))]


def accuracy_figures(runs: list[RunRecord]) -> list[Figure]:
    """Return the held-out figures of fine-tuned runs over their steps; top-5 only if it says more than top-1."""
    validated = [run for run in runs if "val/top1" in run.curves]
    tells_more = any(min(run.curves["val/top5"].values) < 1 for run in validated if "val/top5" in run.curves)
    answered = [run for run in runs if {"val/map", "val/mae"} & set(run.curves)]
    figures = shared_panels(runs, [*(ACCURACY if tells_more else ACCURACY[:1]), *ANSWERED])
    return [drawn._replace(key=_run_key(runs)) for drawn in figures] if len(validated) + len(answered) > 1 else figures


def _run_key(runs: list[RunRecord]) -> ColourKey | None:
    trained = [run for run in runs if run.curves]
    return ColourKey([(run.name, _colour(place)) for place, run in enumerate(trained)]) if len(trained) > 1 else None


def _shared(runs: list[RunRecord], panel: Shared) -> Figure | None:
    lines = [
        Line(Curve(curve.steps, [panel.scale * value for value in curve.values]), _colour(place))
        for place, run in enumerate(runs)
        if (curve := run.curves.get(panel.metric))
    ]
    return figure(panel.title, line_chart(lines, panel.y_label, from_zero=panel.from_zero))


def _targets(run: RunRecord) -> list[str]:
    """Return the targets that the run logged a loss for, in the order of its recipe."""
    logged = [name.partition("/")[2] for name in run.curves if name.startswith("loss/") and name != "loss/total"]
    known = [name for name in run.loss_names() if name in logged]
    return known + sorted(set(logged) - set(known))


def _losses_of(run: RunRecord, colour: str) -> Group:
    targets = _targets(run)
    many = len(targets) > 1
    colours = {target: _colour(place) if many else colour for place, target in enumerate(targets)}
    losses = [Line(run.curves[f"loss/{target}"], colours[target]) for target in targets]
    if len(targets) != 1 and "loss/total" in run.curves:
        losses.append(Line(run.curves["loss/total"], "ink" if many else colour))
    figures = [figure("Loss", line_chart(losses, f"loss ({in_words(run.loss_names().values())})"))]
    relative = [
        Line(run.curves[name], colours[target]) for target in targets if (name := f"loss_relative/{target}") in run.curves
    ]
    figures.append(figure("Relative loss", _relative_chart(relative)))
    variances = [
        Line(run.curves[name], colours[target], dashed=side == "target")
        for target in targets
        for side in ("prediction", "target")
        if (name := f"{side}/variance_{target}") in run.curves
    ]
    chart = line_chart(variances, "variance (squared units)", from_zero=True)
    figures.append(figure("Variance (targets dashed)", chart))
    names = [*colours.items(), ("total", "ink")] if many else list(colours.items())
    return Group(run.name, [drawn for drawn in figures if drawn], ColourKey(names) if names else None)


def _compared(runs: list[RunRecord]) -> Group | None:
    """Return runs of one objective with a target in common, in one panel for each target; None without such runs."""
    figures: list[Figure] = []
    used: dict[str, str] = {}
    for objective in dict.fromkeys(run.objective for run in runs):
        alike = [(run, _colour(place)) for place, run in enumerate(runs) if run.objective == objective]
        for target in dict.fromkeys(target for run, _ in alike for target in _targets(run)):
            is_relative = any(f"loss_relative/{target}" in run.curves for run, _ in alike)
            metric = f"{'loss_relative' if is_relative else 'loss'}/{target}"
            sharing = [(run, colour) for run, colour in alike if metric in run.curves]
            lines = [Line(run.curves[metric], colour) for run, colour in sharing]
            kinds = {run.loss_names().get(target, "") for run, _ in sharing}
            if len(sharing) < 2 or (len(kinds) > 1 and not is_relative):
                continue  # losses of two kinds have no axis in common
            if is_relative:
                drawn = figure(f"Relative loss on {target}", _relative_chart(lines))
            else:
                drawn = figure(f"Loss on {target}", line_chart(lines, f"loss ({in_words(kinds)})"))
            if drawn:
                used |= {run.name: colour for run, colour in sharing}
                figures.append(drawn)
    return Group("Runs beside each other", figures, ColourKey(list(used.items()))) if figures else None


def _relative_chart(lines: list[Line]) -> Markup | None:
    # Values far above 1 at the start would hide the rest: then the axis is logarithmic.
    highest = max((value for line in lines for value in line.curve.values), default=0.0)
    return line_chart(lines, "loss / loss of the mean", from_zero=highest < 3, reference=(1.0, "predicting the mean"))


def _colour(place: int) -> str:
    return f"series-{place % SERIES}"
