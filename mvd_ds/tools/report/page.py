"""The page of a report: what was learned first, then the training behind it, then its origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.tools.report.accuracy import accuracy_note, accuracy_sentence, accuracy_table, adaptation_table
from mvd_ds.tools.report.answers.answer_table import NOTE, answer_sentence, answer_table
from mvd_ds.tools.report.encoders.dense_results import DenseResults
from mvd_ds.tools.report.encoders.dense_section import dense_sections, dense_sentences
from mvd_ds.tools.report.encoders.encoder_table import depth_figures, encoder_table
from mvd_ds.tools.report.encoders.halves_table import halves_note, halves_table
from mvd_ds.tools.report.encoders.moving_clips import class_clips
from mvd_ds.tools.report.encoders.order_table import NOTE as ORDER_NOTE
from mvd_ds.tools.report.encoders.order_table import order_table
from mvd_ds.tools.report.encoders.pooled_finetuning import merge_finetuned
from mvd_ds.tools.report.formatting import (
    FEW_CLIPS,
    MISSING,
    PERCENT,
    few_clips,
    join_words,
    memory_size,
    memory_unit,
    percent,
    signed,
    span,
)
from mvd_ds.tools.report.memory import memory_table
from mvd_ds.tools.report.names import names_of
from mvd_ds.tools.report.picture_section import pictures_of
from mvd_ds.tools.report.probe_figures import difference_figure, interval_words, probe_figures, probe_key
from mvd_ds.tools.report.provenance import difference_tables, origin_table
from mvd_ds.tools.report.run_figures import accuracy_figures, loss_figures, shared_figures
from mvd_ds.tools.report.run_records import Difference, ProbeResults, RunRecord
from mvd_ds.tools.report.sentences import (
    attention,
    label_names,
    last,
    middle,
    neighbour_sentence,
    probe_sentences,
    training_sentence,
)
from mvd_ds.tools.report.templating import Cell, ColourKey, Definition, Figure, Row, Table, cells, render
from mvd_ds.training.console import clock

MAX_VIDEOS = 200
"""Number of replaced videos that the page names; report.json names all."""


class FinetunedSection(NamedTuple):
    """The section on networks that were fine-tuned on several labels."""

    lead: str
    sentences: list[str]
    table: Table
    note: str
    differences: Figure | None
    figures: list[Figure]
    key: ColourKey | None


def render_page(
    runs: list[RunRecord], results: ProbeResults, provenance: dict[str, Any], dense: Mapping[str, DenseResults] | None = None
) -> str:
    """Return the whole HTML document."""
    dense = dense or {}
    names = [run.name for run in runs]
    title = "Report on " + (join_words(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more runs")
    finetuned = merge_finetuned(runs, list(results.comparisons))
    alone = [run for run in runs if finetuned is None or run not in finetuned.runs]
    shown = None if finetuned is None else _finetuned(finetuned.results, runs)
    lead, *others = [*([shown.lead] if shown else []), *_sentences(alone, results, dense)]
    is_probed = any(results.probes.values())
    replaced, replaced_note = _replaced(runs)
    return render(
        "report",
        title=title,
        subtitle=f"Written {provenance['written']}",
        lead=lead,
        sentences=others,
        probe_table=_probe_table(results) if is_probed else None,
        probe_note=_table_note(results),
        differences=difference_figure(results),
        attention=[*_few_clips(results), *(note for run in runs for note in attention(run))],
        names=names_of(runs, results),
        finetuned=shown,
        class_clips=class_clips(runs),
        probe_figures=probe_figures(runs, results),
        probe_key=probe_key(runs, results),
        encoder_table=encoder_table(results),
        depth_figures=depth_figures(results),
        dense=dense_sections(dense),
        halves_table=halves_table(results),
        halves_note=halves_note(results),
        accuracy_table=accuracy_table(alone),
        accuracy_note=accuracy_note(alone),
        answer_table=answer_table([(run.name, run.answers) for run in runs]),
        answer_note=NOTE,
        order_table=order_table(runs),
        order_note=ORDER_NOTE,
        adaptation_table=adaptation_table(alone),
        accuracy_figures=accuracy_figures(alone),
        stages=_stages(runs),
        has_students=any(run.status.together for run in runs),
        pictures=pictures_of(runs),
        losses=loss_figures(runs),
        has_targets=any(name.startswith("loss_relative/") for run in runs for name in run.curves),
        shared=shared_figures(runs),
        memory=memory_table(runs),
        replaced=replaced,
        replaced_note=replaced_note,
        setting_differences=difference_tables(runs),
        runs=runs,
        origins=origin_table(runs),
        **_origin(runs, provenance),
    )


def _sentences(runs: list[RunRecord], results: ProbeResults, dense: Mapping[str, DenseResults]) -> list[str]:
    """Return what the numbers say, the most important first."""
    accuracies = [sentence for run in runs if (sentence := accuracy_sentence(run))]
    accuracies += [answer_sentence(run.name, run.answers) for run in runs if run.answers is not None]
    if any(results.probes.values()) or dense:
        probed = probe_sentences(results) if any(results.probes.values()) else []
        return probed + dense_sentences(dense) + accuracies
    trained = [sentence for run in runs if (sentence := training_sentence(run))]
    measured = accuracies + [sentence for run in runs if (sentence := neighbour_sentence(run))]
    return [*measured, *trained] if measured else probe_sentences(results) + trained


def _finetuned(results: ProbeResults, runs: list[RunRecord]) -> FinetunedSection:
    """Return the section on networks that were fine-tuned on several labels."""
    note = (
        f"Each network was trained whole on each label; {results.clips['held_out']:,} held-out videos, measured after the last "
        f"step. Small print: {interval_words(results)}."
    )
    figures = probe_figures(runs, results)
    lead, *others = probe_sentences(results)
    return FinetunedSection(
        f"Fine-tuned: {lead}", others, _probe_table(results), note, difference_figure(results), figures, probe_key(runs, results)
    )


def _few_clips(results: ProbeResults) -> list[str]:
    """Return a warning for every set of held-out clips that is too small."""
    held_out = {name: number for name, number in results.clips.items() if name.endswith("held_out")}
    return [
        (f"{name.removesuffix(' held_out')}: " if " " in name else "") + few_clips(number, "held-out clip")
        for name, number in held_out.items()
        if number < FEW_CLIPS
    ]


def _probe_table(results: ProbeResults) -> Table:
    labels = label_names(results)
    firsts = {name.partition(" minus ")[0] for name in results.comparisons}
    rows = []
    for model, shares in results.probes.items():
        shown = [_share(shares.get(label), results, model, label) for label in labels]
        rows.append(Row(model, shown, "first" if model in firsts else ""))
    if results.chance:
        rows.append(Row("chance", cells(*(percent(results.chance.get(label)) for label in labels)), "aside"))
    for place, (name, differences) in enumerate(results.comparisons.items()):
        rows.append(Row(name, [_difference(differences, label) for label in labels], "" if place else "group"))
    classes = [f"{label}, {results.labels[label]} classes" if label in results.labels else label for label in labels]
    return Table(["held-out top-1", *classes], rows)


def _table_note(results: ProbeResults) -> str:
    """Return how to read the table."""
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


def _share(share: float | None, results: ProbeResults, model: str, label: str) -> Cell:
    details = results.details.get(model, {}).get(label)
    seeds = details.per_seed if details else []
    ends = results.intervals.get(model, {}).get(label) or ((min(seeds), max(seeds)) if len(seeds) > 1 else None)
    return Cell(percent(share), span(*ends) if ends else "")


def _difference(differences: dict[str, Difference], label: str) -> Cell:
    if label not in differences:
        return Cell(MISSING)
    found = differences[label]
    return Cell(signed(found.difference), f"{signed(found.low)} to {signed(found.high)}")


def _stages(runs: list[RunRecord]) -> Table:
    at_once: dict[Path, float] = {}
    for run in runs:
        place = (run.path / run.status.together).resolve()
        at_once[place] = max(at_once.get(place, 0.0), run.status.seconds)
    total = sum(at_once.values())
    unit = memory_unit(peak for run in runs if (peak := last(run, "memory/peak_gib")) is not None)
    rows = []
    for run in runs:
        status = run.status
        shown = cells(
            run.objective.replace("_", " "),
            status.state + (f" (attempt {status.attempts})" if status.attempts > 1 else ""),
            f"{status.step:,} of {status.last_step:,}" if run.curves else MISSING,
            _number(middle(run, "perf/clips_per_second"), "{:,.0f}"),
            _number(middle(run, "perf/data_wait_share"), "{:.0%}"),
            memory_size(last(run, "memory/peak_gib"), unit),
            Cell(f"{status.seconds:,.1f}", clock(status.seconds)),
        )
        if len(runs) > 1:
            shown.append(Cell("", share=100 * status.seconds / total if total else 0.0))
        rows.append(Row(run.name, shown))
    head = ["run", "objective", "state", "steps", "clips/s", "waiting for data", f"peak memory ({unit[0]})", "seconds"]
    if len(runs) > 1:
        rows.append(Row("all", cells(*[""] * 6, Cell(f"{total:,.1f}", clock(total)), ""), "group"))
        head.append("")
    return Table(head, rows, "stages")


def _number(value: float | None, pattern: str) -> str:
    return MISSING if value is None else pattern.format(value).replace("%", PERCENT)


def _replaced(runs: list[RunRecord]) -> tuple[Table | None, str]:
    """Return the videos that could not be read, and a note on those that are not named."""
    videos = [(run.name, fault, times) for run in runs for fault, times in run.status.replaced_videos.items()]
    rows = []
    for name, fault, times in videos[:MAX_VIDEOS]:
        path, _, reason = fault.partition(": ")
        rows.append(Row(name, cells(Cell(path, is_code=True), reason, f"{times:,}")))
    more = f" {len(videos) - MAX_VIDEOS:,} more are named in report.json." if len(videos) > MAX_VIDEOS else ""
    return Table(["run", "video", "reason", "times"], rows, "words") if rows else None, more


def _origin(runs: list[RunRecord], provenance: dict[str, Any]) -> dict[str, list[Definition]]:
    machine, versions = provenance["machine"], provenance["versions"]
    gpus = machine["gpus"]
    computer = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB; {machine['system']}"
    return {
        "places": [
            Definition("machine", computer),
            Definition("GPUs", ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or "none"),
            Definition("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ],
        "commands": [Definition(run.name, run.status.command, is_code=True) for run in runs if run.status.command],
        "folders": [Definition(run.name, str(run.path), is_code=True) for run in runs],
    }
