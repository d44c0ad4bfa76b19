"""The page of a report: what was learned first, then how, then where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvd_ds.tools.report.document import document
from mvd_ds.tools.report.formatting import MISSING, PERCENT, join_words, percent, signed, span
from mvd_ds.tools.report.markup import Html, element, join, row, table
from mvd_ds.tools.report.memory_table import memory_section
from mvd_ds.tools.report.picture_section import picture_section
from mvd_ds.tools.report.probe_figures import difference_figure, interval_words, probe_figures
from mvd_ds.tools.report.provenance import differences_section, origin_table
from mvd_ds.tools.report.run_figures import loss_figures, machine_figures
from mvd_ds.tools.report.run_records import ProbeResults, RunRecord
from mvd_ds.tools.report.sentences import attention, label_names, last, middle, probe_sentences, training_sentence
from mvd_ds.training.console import clock

#: Replaced videos that the page names; report.json names all.
MAX_VIDEOS = 200


def render_page(runs: list[RunRecord], results: ProbeResults, provenance: dict[str, Any]) -> str:
    """The whole HTML document."""
    names = [run.name for run in runs]
    title = "Report on " + (join_words(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more runs")
    return document(
        title,
        f"Written {provenance['written']}",
        _summary(runs, results),
        probe_figures(runs, results),
        _stages(runs),
        picture_section(runs),
        loss_figures(runs),
        machine_figures(runs),
        memory_section(runs),
        _replaced(runs),
        differences_section(runs),
        _recipes(runs),
        _provenance(runs, provenance),
    )


def _summary(runs: list[RunRecord], results: ProbeResults) -> Html:
    first, *others = probe_sentences(results)
    if not any(results.probes.values()):
        others += [sentence for run in runs if (sentence := training_sentence(run))]
    notes = [note for run in runs for note in attention(run)]
    return element(
        "section",
        element("p", first, class_="lead"),
        element("ul", *(element("li", sentence) for sentence in others)) if others else None,
        element("div", _probe_table(results), difference_figure(results), class_="beside")
        if any(results.probes.values())
        else None,
        element("ul", *(element("li", note) for note in notes), class_="attention") if notes else None,
    )


def _probe_table(results: ProbeResults) -> Html:
    labels = label_names(results)
    firsts = {name.partition(" minus ")[0] for name in results.comparisons}
    rows = []
    for model, shares in results.probes.items():
        cells = [_share(shares.get(label), results, model, label) for label in labels]
        rows.append(row(model, *cells, class_="first" if model in firsts else None))
    if results.chance:
        chances = [percent(results.chance.get(label)) for label in labels]
        rows.append(row("chance", *chances, class_="aside"))
    for place, (name, differences) in enumerate(results.comparisons.items()):
        cells = [_difference(differences, label) for label in labels]
        rows.append(row(name, *cells, class_=None if place else "group"))
    classes = [f"{label}, {results.labels[label]} classes" if label in results.labels else label for label in labels]
    return element("div", table(["held-out top-1", *classes], rows), element("p", _table_note(results), class_="quiet"))


def _table_note(results: ProbeResults) -> str:
    """How to read the table."""
    clips = ", ".join(f"{count:,} {name.replace('_', '-')}" for name, count in results.clips.items())
    spread = " Small print: lowest and highest probe seed" if results.details else ""
    if results.intervals:
        spread = f" Small print: {interval_words(results)}"
    intervals = (
        f", and paired 95{PERCENT} bootstrap intervals of differences in points." if spread and results.comparisons else "."
    )
    pooling = f" of {results.pooling}-pooled tokens" if results.pooling else ""
    heads = " (linear where no other head is named)" if any(":" in name for name in results.probes) else ""
    kind = "Probes" if heads else "Linear probes"
    return f"{kind} on frozen features{pooling}{heads}; clips: {clips or 'not recorded'}.{spread}{intervals if spread else ''}"


def _share(share: float | None, results: ProbeResults, model: str, label: str) -> str:
    details = results.details.get(model, {}).get(label)
    seeds = details.per_seed if details else []
    ends = results.intervals.get(model, {}).get(label) or ((min(seeds), max(seeds)) if len(seeds) > 1 else None)
    spread = element("small", span(*ends)) if ends else None
    return join(percent(share), spread)


def _difference(differences: dict[str, Any], label: str) -> str:
    if label not in differences:
        return MISSING
    found = differences[label]
    interval = f"{signed(found.low)} to {signed(found.high)}"
    return join(signed(found.difference), element("small", interval))


def _stages(runs: list[RunRecord]) -> Html:
    total = sum(run.status.seconds for run in runs)
    rows = []
    for run in runs:
        status = run.status
        share = 100 * status.seconds / total if total else 0.0
        bar = element("span", element("i", style=f"width: {share:.1f}%"), class_="share", aria_hidden="true")
        steps = f"{status.step:,} of {status.last_step:,}" if run.curves else MISSING
        attempts = f" (attempt {status.attempts})" if status.attempts > 1 else ""
        cells = [
            run.objective.replace("_", " "),
            status.state + attempts,
            steps,
            _number(middle(run, "perf/clips_per_second"), "{:,.0f}"),
            _number(middle(run, "perf/data_wait_share"), "{:.0%}"),
            _number(last(run, "memory/peak_gib"), "{:.1f}"),
            join(f"{status.seconds:,.1f}", element("small", clock(status.seconds))),
            bar if len(runs) > 1 else "",
        ]
        rows.append(row(run.name, *cells))
    if len(runs) > 1:
        rows.append(row("all", *[""] * 6, join(f"{total:,.1f}", element("small", clock(total))), "", class_="group"))
    head = ["stage", "objective", "state", "steps", "clips/s", "data wait", "peak GiB", "seconds", ""]
    note = "Clips/s and data wait are medians over the log lines. Seconds add up all attempts of a stage."
    return element("section", element("h2", "Stages"), table(head, rows, class_="stages"), element("p", note, class_="quiet"))


def _number(value: float | None, pattern: str) -> str:
    return MISSING if value is None else pattern.format(value).replace("%", " %")


def _replaced(runs: list[RunRecord]) -> Html | None:
    videos = [(run.name, fault, times) for run in runs for fault, times in run.status.replaced_videos.items()]
    if not videos:
        return None
    rows = []
    for name, fault, times in videos[:MAX_VIDEOS]:
        path, _, reason = fault.partition(": ")
        cells = (element("td", name), element("td", element("code", path)), element("td", reason))
        rows.append(element("tr", *cells, element("td", f"{times:,}", class_="number")))
    more = f" {len(videos) - MAX_VIDEOS:,} more are named in report.json." if len(videos) > MAX_VIDEOS else ""
    note = f"Each was replaced by the next sample of its key; counts are those of a run's last attempt.{more}"
    return element(
        "section",
        element("h2", "Replaced videos"),
        table(["run", "video", "reason", "times"], rows, class_="words"),
        element("p", note, class_="quiet"),
    )


def _recipes(runs: list[RunRecord]) -> Html:
    entries = (
        element("details", element("summary", f"{run.name}: all settings"), element("pre", run.recipe_text)) for run in runs
    )
    return element("section", element("h2", "Recipes"), *entries)


def _provenance(runs: list[RunRecord], provenance: dict[str, Any]) -> Html:
    machine, versions = provenance["machine"], provenance["versions"]
    commands = [run for run in runs if run.status.command]
    gpus = machine["gpus"]
    places = [
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB; {machine['system']}"),
        ("GPUs", ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or "none"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return element(
        "section",
        element("h2", "Provenance"),
        origin_table(runs),
        element("h3", "This report"),
        definitions(places, str),
        element("h3", "Commands") if commands else None,
        definitions([(run.name, run.status.command) for run in commands], lambda text: element("code", text)),
        element("h3", "Folders"),
        definitions([(run.name, str(run.path)) for run in runs], lambda text: element("code", text)),
    )


def definitions(pairs: list[tuple[str, str]], shown: Callable[[str], str]) -> Html | None:
    """A list of names and what they are, None without any."""
    if not pairs:
        return None
    return element("dl", *(join(element("dt", name), element("dd", shown(text))) for name, text in pairs))
