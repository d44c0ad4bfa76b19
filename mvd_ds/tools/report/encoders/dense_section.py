"""The section of a report on dense probes: encoders side by side, scores over depth, and a sentence for every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mvd_ds.tools.report.encoders.dense_results import DenseCell, DenseResults, DenseTarget
from mvd_ds.tools.report.encoders.depth_chart import DepthLine, depth_chart
from mvd_ds.tools.report.formatting import MISSING, PERCENT, percent, points, signed, span
from mvd_ds.tools.report.run_records import Difference
from mvd_ds.tools.report.templating import Cell, ColourKey, Figure, Row, Table, cells, figure


class DenseSection(NamedTuple):
    """The part of the page on one dense probe."""

    title: str
    table: Table
    note: str
    figures: list[Figure]


def dense_sections(found: Mapping[str, DenseResults]) -> list[DenseSection]:
    """Return a section for every result."""
    return [DenseSection(name, _table(results), _note(results), _depths(results)) for name, results in found.items()]


def dense_sentences(found: Mapping[str, DenseResults]) -> list[str]:
    """Return a sentence for every comparison; without any, the best score of every target."""
    said = []
    for results in found.values():
        for name, differences in results.comparisons.items():
            ours, _, theirs = name.partition(" minus ")
            clauses = [_clause(target, results.targets[target], differences[target]) for target in differences]
            said.append(f"Reading tokens out, {ours} against {theirs}: {'; '.join(clauses)}.")
        if not results.comparisons:
            said += [_best(results, target) for target in results.targets]
    return said


def _clause(target: str, facts: DenseTarget, found: Difference) -> str:
    interval = f"95{PERCENT} interval {signed(found.low)} to {signed(found.high)}"
    verdict = found.verdict()
    if verdict is None:
        return f"no difference that {found.clips} clips can tell on “{target}” ({signed(found.difference)} points, {interval})"
    words = "more" if verdict == "beats" else "less"
    return f"{points(abs(found.difference))} points {words} of “{target}” ({facts.score_words}; {interval})"


def _best(results: DenseResults, target: str) -> str:
    scores = {name: values[target].score for name, values in results.scores.items() if target in values}
    name = max(scores, key=lambda key: scores[key])
    return f"“{target}” is read best from {name}: {percent(scores[name])} {results.targets[target].score_words}."


def _table(results: DenseResults) -> Table:
    swept = {name for facts in results.encoders.values() if len(facts.blocks) > 1 for name in facts.blocks}
    rows = []
    for name, scores in results.scores.items():
        if name in swept:
            continue
        facts = results.encoders.get(name)
        what = Cell(facts.network or "ours", facts.weights) if facts else Cell("4 x 4 means of each place")
        grid = " x ".join(map(str, results.grids[name])) if name in results.grids else MISSING
        size = [facts.input if facts else MISSING, grid]
        measured = [cell for target in results.targets for cell in _cells(scores.get(target), results.targets[target])]
        rows.append(Row(name, [what, *cells(*size), *measured]))
    for place, (name, differences) in enumerate(results.comparisons.items()):
        shown = []
        for target in results.targets:
            found = differences.get(target)
            shown += [
                Cell(signed(found.difference), f"{signed(found.low)} to {signed(found.high)}") if found else Cell(MISSING),
                Cell(""),
            ]
        rows.append(Row(name, [*cells("", "", ""), *shown], "" if place else "group"))
    head = ["encoder", "network", "input", "tokens"]
    for target, kind in results.targets.items():
        head += [f"{target}, {kind.score_words} (%)", kind.second_words]
    return Table(head, rows, "measured")


def _cells(found: DenseCell | None, facts: DenseTarget) -> list[Cell]:
    if found is None:
        return cells(MISSING, MISSING)
    numbers = [block.rpartition("@")[2] for block in found.blocks if "@" in block]
    chosen = f", block {' '.join(dict.fromkeys(numbers))}" if numbers else ""
    second = f"{100 * found.second:.1f}" if facts.kind == "classes" else f"{found.second:.4g}"
    return [Cell(percent(found.score), span(found.low, found.high) + chosen), Cell(second)]


def _note(results: DenseResults) -> str:
    over = f"{results.trainings} training seeds" if results.trainings > 1 else "one training, seeds of the selection"
    clips = ", ".join(f"{count:,} {name.replace('_', '-')}" for name, count in results.clips.items())
    guesses = [f"{100 * facts.guessed:.1f}{PERCENT} for {name}" for name, facts in results.targets.items() if facts.guessed]
    guess = f" Always the most frequent class: {', '.join(guesses)}." if guesses else ""
    return (
        "Ridge regressions on frozen tokens; strength, and block where several were read, were chosen on a share of the training "
        f"clips. Variance explained is R2, and below 0 where the mean would be better. Clips: {clips}. Small print: 95{PERCENT} "
        f"bootstrap intervals over {over} and the held-out clips.{guess} Each network is compared at its own tokens: a coarser "
        "grid has easier places."
    )


def _depths(results: DenseResults) -> list[Figure]:
    """Return scores over depth for every target; none where one block was read."""
    figures = []
    swept = {name: facts for name, facts in results.encoders.items() if len(facts.blocks) > 1}
    for target, facts in results.targets.items() if swept else ():
        lines = []
        for place, encoder in enumerate(swept.values()):
            blocks = sorted(encoder.blocks.items(), key=lambda entry: entry[1])
            found = [results.scores[name][target] for name, _ in blocks]
            spans = [(one.low, one.high) for one in found]
            lines.append(DepthLine([number for _, number in blocks], [one.score for one in found], spans, f"series-{place % 6}"))
        chart = depth_chart(lines, facts.guessed, f"{facts.score_words} on {target} (%)")
        key = ColourKey([(name, f"series-{place % 6}") for place, name in enumerate(swept)])
        drawn = figure(f"“{target}” over depth", chart)
        figures += [drawn._replace(key=key)] if drawn else []
    return figures
