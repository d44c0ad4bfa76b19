"""Accuracy on held-out videos of fine-tuned and of evaluated classifiers: a table, curves, and sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mvd_ds.files import counted
from mvd_ds.tools.report.formatting import FEW_CLIPS, MISSING, PERCENT, few_clips, percent, span, wilson_interval
from mvd_ds.tools.report.provenance import attempt_of
from mvd_ds.tools.report.run_records import Evaluation, RunRecord, Validation
from mvd_ds.tools.report.templating import Cell, Row, Table, cells
from mvd_ds.training.console import clock

TOP_FIVE_CLASSES = 6
"""With fewer classes than this, one of five guesses is always right, and top-5 says nothing."""


def accuracy_table(runs: list[RunRecord]) -> Table | None:
    """Return a row for every run that measured accuracy on held-out videos; None without such runs."""
    rows = []
    for run in runs:
        found, measured = run.validation, run.evaluation
        if measured is not None:
            what = f"evaluation of {measured.weights} on {measured.manifest}"
            rows.append(_row(run.name, what, measured))
        elif found is not None:
            what = f"validation after step {found.step:,}"
            rows.append(_row(run.name, what, found))
    head = ["run", "measured by", "top-1", "top-5", "videos", "always the most frequent class"]
    return Table(head, rows, "measured") if rows else None


def accuracy_note(runs: list[RunRecord]) -> str:
    """Return how to read the table."""
    note = (
        "Top-1 is the share of videos whose likeliest class is the true one; top-5 counts the five likeliest. "
        f"Small print: Wilson's 95{PERCENT} interval, which says how far another set of so many videos could move the share."
    )
    best = any(len(run.curves["val/top1"].values) > 1 for run in runs if "val/top1" in run.curves)
    return note + (" A best value was chosen on these very videos and flatters a little." if best else "")


def adaptations(runs: list[RunRecord]) -> dict[str, dict[str, Any]]:
    """Return what every fine-tuned run trained, what that cost, and its accuracy, by its name; None where it was not recorded."""
    found = {}
    for run in runs:
        if run.validation is None or run.objective != "classification":
            continue
        adaptation = run.recipe.get("adaptation", {})
        groups = attempt_of(run.path).get("parameter_groups", [])
        peaks = run.curves["memory/peak_gib"].values if "memory/peak_gib" in run.curves else []
        kind = adaptation.get("kind", "full")
        found[run.name] = {
            "kind": kind,
            "trained_part": f"{kind}, rank {adaptation['rank']}" if kind == "lora" else kind,
            "pooling": _pooling_words(run.recipe.get("pooling", {})),
            "trained_parameters": sum(group["parameters"] for group in groups) if groups else None,
            "peak_gib": max(peaks, default=None),
            "seconds": run.status.seconds,
            "top1": run.validation.top1,
            "samples": run.validation.samples,
        }
    return found


ADAPTATION_HEAD = ["run", "trained part", "pooling", "trained parameters", "peak memory (GiB)", "time", "top-1"]


def adaptation_cells(found: dict[str, Any]) -> list[str]:
    """Return the cells of a row of ``adaptations`` behind its name."""
    parameters, peak = found["trained_parameters"], found["peak_gib"]
    cost = [MISSING if parameters is None else f"{parameters:,}", MISSING if peak is None else f"{peak:.2f}"]
    return [found["trained_part"], found["pooling"], *cost, clock(found["seconds"]), percent(found["top1"])]


def is_ladder(found: dict[str, dict[str, Any]]) -> bool:
    """Return whether a run trained a part of its encoder alone, so that costs are worth a table."""
    return any(one["kind"] != "full" for one in found.values())


def adaptation_table(runs: list[RunRecord]) -> Table | None:
    """Return accuracy beside what it cost, a row for every fine-tuned run; None unless one of them trained a part alone."""
    found = adaptations(runs)
    rows = []
    for name, one in found.items():
        *shown, top1 = adaptation_cells(one)
        rows.append(Row(name, [*cells(*shown), Cell(top1, span(*wilson_interval(one["top1"], one["samples"])))]))
    return Table(ADAPTATION_HEAD, rows, "words") if is_ladder(found) else None


def _pooling_words(pooling: dict[str, Any]) -> str:
    """Return kind of the pooling, and of how many blocks if of several."""
    kind, layers = pooling.get("kind", "mean"), len(pooling.get("layers", [-1]))
    return f"{kind} of {layers} blocks" if layers > 1 else str(kind)


def accuracy_sentence(run: RunRecord) -> str | None:
    """Return how accurate a run's classifier is on held-out videos; None if that was not measured."""
    if run.evaluation is not None:
        videos = counted(run.evaluation.samples, "held-out video")
        return f"{run.name}: {percent(run.evaluation.top1)} of {videos} are classified right."
    curve = run.curves.get("val/top1")
    if run.validation is None and curve is None:
        return None
    if run.validation is not None:
        step, top1 = run.validation.step, run.validation.top1
        of = f" of {counted(run.validation.samples, 'held-out video')}"
    else:
        assert curve is not None
        step, top1, of = curve.steps[-1], curve.values[-1], " of the held-out videos"
    text = f"{run.name}: {percent(top1)}{of} are classified right after step {step:,}"
    if curve is not None and max(curve.values) > top1 + 1e-9:
        best = max(range(len(curve.values)), key=lambda place: curve.values[place])
        text += f"; the best was {percent(curve.values[best])} after step {curve.steps[best]:,}"
    frequent = _most_frequent(run.validation)
    return text + (f"; always naming the most frequent class gives {percent(frequent)}." if frequent is not None else ".")


def few_videos(run: RunRecord) -> str | None:
    """Return a warning if a run's accuracy rests on fewer than ``FEW_CLIPS`` videos."""
    found = run.evaluation or run.validation
    if found is None or found.samples >= FEW_CLIPS:
        return None
    return f"{run.name}: {few_clips(found.samples, 'held-out video')}"


def _row(name: str, what: str, found: Validation | Evaluation) -> Row:
    top1 = Cell(percent(found.top1), span(*wilson_interval(found.top1, found.samples)))
    top5 = percent(found.top5) if (len(_class_videos(found)) or TOP_FIVE_CLASSES) >= TOP_FIVE_CLASSES else MISSING
    return Row(name, [Cell(what), top1, *cells(top5, f"{found.samples:,}", percent(_most_frequent(found)))])


def _class_videos(found: Validation | Evaluation) -> list[int]:
    """Return the number of held-out videos of each class; none where files of earlier versions do not say it."""
    if isinstance(found, Evaluation):
        return [entry.samples for entry in found.per_class]
    return list(Counter(found.label).values())


def _most_frequent(found: Validation | Evaluation | None) -> float | None:
    """Return the share of the most frequent class among the held-out videos."""
    videos = _class_videos(found) if found is not None else []
    return max(videos) / sum(videos) if sum(videos) else None
