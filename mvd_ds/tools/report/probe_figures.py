"""Figures of the probes: a bar chart for each label, the differences between models, and models in the plane of two labels."""

from __future__ import annotations

import re

from mvd_ds.tools.report.charts import Bar, Interval, bar_chart, interval_chart
from mvd_ds.tools.report.encoders.encoder_table import swept
from mvd_ds.tools.report.formatting import PERCENT
from mvd_ds.tools.report.plane_chart import Point, plane_chart
from mvd_ds.tools.report.run_records import Difference, ProbeResults, RunRecord
from mvd_ds.tools.report.sentences import label_names
from mvd_ds.tools.report.templating import ColourKey, Figure, figure

_KINDS = {"accent": "compared above", "calm": "other trained models", "faint": "baselines"}
"""Meaning of a bar's colour."""


def probe_figures(runs: list[RunRecord], results: ProbeResults) -> list[Figure]:
    """Return a bar chart for each label, and the plane of the first two."""
    labels, curves = label_names(results), swept(results)
    shown = {
        key: {name: value for name, value in getattr(results, key).items() if name not in curves}
        for key in ("probes", "intervals")
    }
    results = results.model_copy(update=shown)
    if not results.probes:
        return []
    colours = _colours(runs, results)
    plane = _plane(results, labels, colours)
    return [*(_bars(results, label, colours) for label in labels), *([plane] if plane else [])]


def probe_key(runs: list[RunRecord], results: ProbeResults) -> ColourKey | None:
    """Return the meaning of the colours of ``probe_figures``; None without probes."""
    used = set(_colours(runs, results).values())
    entries = [(text, name) for name, text in _KINDS.items() if name in used]
    return ColourKey(entries, is_filled=True) if entries else None


def _colours(runs: list[RunRecord], results: ProbeResults) -> dict[str, str]:
    """Return accent for the left side of a comparison, faint for baselines (untrained, without motion, no model), else calm."""
    trained = set()
    for run in runs:
        for name, settings in run.probed_models().items():
            if not settings.get("untrained") and settings.get("frames", "all") == "all":
                trained |= {name, f"{run.name}/{name}"}
    firsts = {name.partition(" minus ")[0] for name in results.comparisons}
    plain = {model: re.sub(r"@\d+$", "", model.partition(":")[0]) for model in results.probes}  # of MODEL@BLOCK:HEAD
    return {model: "accent" if model in firsts else "calm" if plain[model] in trained else "faint" for model in results.probes}


def _bars(results: ProbeResults, label: str, colours: dict[str, str]) -> Figure:
    bars, counts = [], set()
    for model, shares in results.probes.items():
        if label not in shares:
            continue
        details = results.details.get(model, {}).get(label)
        seeds = details.per_seed if details else []
        ends = results.intervals.get(model, {}).get(label) or ((min(seeds), max(seeds)) if len(seeds) > 1 else None)
        span = (100 * ends[0], 100 * ends[1]) if ends else None
        counts.add(len(seeds))
        bars.append(Bar(model, 100 * shares[label], span, colours[model]))
    chance = 100 * results.chance[label] if label in results.chance else None
    whiskers = f"Whiskers: lowest and highest of {max(counts)} probe seeds." if max(counts) > 1 else ""
    if results.intervals:
        whiskers = f"Whiskers: {interval_words(results)}."
    return Figure(f"Label “{label}”", [("", bar_chart(bars, chance, "held-out top-1 (%)"))], whiskers)


def _plane(results: ProbeResults, labels: list[str], colours: dict[str, str]) -> Figure | None:
    """Return the first two labels against each other; None if there are fewer, no intervals, or a single model."""
    if len(labels) < 2 or not results.intervals:
        return None
    x, y = labels[:2]
    points = []
    for model, spans in results.intervals.items():
        if x in spans and y in spans:
            shares = results.probes[model]
            (x_low, x_high), (y_low, y_high) = spans[x], spans[y]
            ends = (100 * x_low, 100 * x_high), (100 * y_low, 100 * y_high)
            points.append(Point(model, 100 * shares[x], 100 * shares[y], *ends, colours[model]))
    if len(points) < 2:
        return None
    chances = tuple(100 * results.chance[label] if label in results.chance else None for label in (x, y))
    note = f"Crosses: {interval_words(results)}. Dotted: chance."
    return figure(f"Labels “{x}” and “{y}”", plane_chart(points, (chances[0], chances[1]), (x, y)), note)


def interval_words(results: ProbeResults) -> str:
    """Return the words that say what the intervals of single models are taken over."""
    over = f"{results.trainings} training seeds and" if results.trainings > 1 else "one training,"
    return f"95{PERCENT} bootstrap intervals over {over} the held-out clips"


def difference_figure(results: ProbeResults) -> Figure | None:
    """Return the differences between models with their intervals; None if none were compared."""
    compared = results.comparisons
    labels = [label for label in label_names(results) if any(label in differences for differences in compared.values())]
    if not labels:
        return None
    note, unit = _difference_note(results), "difference in top-1 (percentage points)"
    if len(compared) == 1:
        ((name, differences),) = compared.items()
        intervals = [_interval(label, differences[label]) for label in labels if label in differences]
        return figure(name, interval_chart(intervals, unit), note)
    charts = []
    for label in labels:
        named = [_interval(name, found[label]) for name, found in compared.items() if label in found]
        charts.append((f"Differences on “{label}”", interval_chart(named, unit)))
    return Figure("", charts, note)


def _difference_note(results: ProbeResults) -> str:
    found = [difference for differences in results.comparisons.values() for difference in differences.values()]
    hollow = " Hollow: the interval includes zero." if any(difference.verdict() is None for difference in found) else ""
    seeds = f"{results.trainings} training seeds and " if results.trainings > 1 else ""
    return f"Paired 95{PERCENT} bootstrap intervals over {seeds}the held-out clips.{hollow}"


def _interval(name: str, found: Difference) -> Interval:
    return Interval(name, 100 * found.difference, 100 * found.low, 100 * found.high)
