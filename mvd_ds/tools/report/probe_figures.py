"""Figures of the probes: one bar chart per label, and the differences between models."""

from __future__ import annotations

from mvd_ds.tools.report.charts import Bar, Interval, bar_chart, interval_chart
from mvd_ds.tools.report.formatting import PERCENT
from mvd_ds.tools.report.markup import Html, element
from mvd_ds.tools.report.plane_chart import Point, plane_chart
from mvd_ds.tools.report.run_records import ProbeResults, RunRecord
from mvd_ds.tools.report.sentences import label_names


def probe_figures(runs: list[RunRecord], results: ProbeResults) -> Html | None:
    """The section of the probes, None without any."""
    labels = label_names(results)
    if not labels:
        return None
    colours = _colours(runs, results)
    figures = [_bars(results, label, colours) for label in labels]
    plane = _plane(results, labels, colours)
    keys = (("accent", "compared above"), ("calm", "other trained models"), ("faint", "baselines"))
    used = set(colours.values())
    key = (
        element("span", element("i", class_="block", style=f"background: var(--{name})"), text)
        for name, text in keys
        if name in used
    )
    return element(
        "section",
        element("h2", "What frozen features know"),
        element("p", *key, class_="key"),
        element("div", *figures, plane, class_="panels wide"),
    )


def _colours(runs: list[RunRecord], results: ProbeResults) -> dict[str, str]:
    """Accent: the left side of a comparison; faint: untrained, robbed of motion, or no model at all; calm: the rest."""
    trained = set()
    for run in runs:
        models = run.recipe.get("models") if run.results is not None else None
        for name, settings in models.items() if isinstance(models, dict) else ():
            if isinstance(settings, dict) and not settings.get("untrained") and settings.get("frames", "all") == "all":
                trained |= {str(name), f"{run.name}/{name}"}
    firsts = {name.partition(" minus ")[0] for name in results.comparisons}
    return {model: "accent" if model in firsts else "calm" if model in trained else "faint" for model in results.probes}


def _bars(results: ProbeResults, label: str, colours: dict[str, str]) -> Html:
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
    whiskers = f"Whiskers: lowest and highest of {max(counts)} probe seeds." if max(counts) > 1 else None
    if results.intervals:
        whiskers = f"Whiskers: {interval_words(results)}."
    return element(
        "figure",
        element("strong", label),
        bar_chart(bars, chance, "held-out top-1 (%)"),
        element("figcaption", whiskers) if whiskers else None,
    )


def _plane(results: ProbeResults, labels: list[str], colours: dict[str, str]) -> Html | None:
    """The first two labels against each other, None where there are fewer or no intervals."""
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
    if not points:
        return None
    chances = tuple(100 * results.chance[label] if label in results.chance else None for label in (x, y))
    note = f"Crosses: {interval_words(results)}. Dotted: chance."
    return element(
        "figure",
        element("strong", f"{x} and {y}"),
        plane_chart(points, (chances[0], chances[1]), (x, y)),
        element("figcaption", note),
    )


def interval_words(results: ProbeResults) -> str:
    """What the intervals of single models are over."""
    over = f"{results.trainings} training seeds and" if results.trainings > 1 else "one training,"
    return f"95{PERCENT} bootstrap intervals over {over} the held-out clips"


def difference_figure(results: ProbeResults) -> Html | None:
    """Differences between models with their intervals, None where none were compared."""
    compared = results.comparisons
    labels = [label for label in label_names(results) if any(label in differences for differences in compared.values())]
    if not labels:
        return None
    note = element("figcaption", _difference_note(results))
    unit = "difference in top-1 (percentage points)"
    if len(compared) == 1:
        ((name, differences),) = compared.items()
        intervals = [Interval(label, *_percent(differences[label])) for label in labels if label in differences]
        return element("figure", element("strong", name), interval_chart(intervals, unit), note)
    charts: list[Html] = []
    for label in labels:
        named = [Interval(name, *_percent(found[label])) for name, found in compared.items() if label in found]
        charts += [element("strong", f"differences on “{label}”"), interval_chart(named, unit)]
    return element("figure", *charts, note)


def _difference_note(results: ProbeResults) -> str:
    found = [difference for differences in results.comparisons.values() for difference in differences.values()]
    hollow = " Hollow: the interval includes zero." if any(difference.verdict() is None for difference in found) else ""
    seeds = f"{results.trainings} training seeds and " if results.trainings > 1 else ""
    return f"Paired 95{PERCENT} bootstrap intervals over {seeds}the held-out clips.{hollow}"


def _percent(found: object) -> tuple[float, float, float]:
    values = (getattr(found, name) for name in ("difference", "low", "high"))
    difference, low, high = (100 * value for value in values)
    return difference, low, high
