"""The command ``report``: one self-contained page, and the same figures as JSON, over any number of runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mvd_ds.files import ConfigError, one_line, write_json, write_text
from mvd_ds.tools.report.accuracy import ADAPTATION_HEAD, adaptation_cells, adaptations, is_ladder
from mvd_ds.tools.report.charts import thin
from mvd_ds.tools.report.encoders.dense_results import DenseResults, read_dense
from mvd_ds.tools.report.encoders.pooled_finetuning import merge_finetuned
from mvd_ds.tools.report.page import render_page
from mvd_ds.tools.report.pdf import find_browser, write_pdf
from mvd_ds.tools.report.picture_section import picture_numbers
from mvd_ds.tools.report.pooled_probes import merge_probes
from mvd_ds.tools.report.provenance import attempt_of, recipe_differences
from mvd_ds.tools.report.run_records import ProbeResults, RunRecord, read_runs
from mvd_ds.tools.report.sentences import label_names
from mvd_ds.training.console import say
from mvd_ds.training.reporting.provenance import machine, versions


def write_report(runs: list[Path], output: Path, pdf: bool = False) -> None:
    """Write ``report.json``, ``report.html`` and, with ``pdf``, ``report.pdf`` over the run folders ``runs`` into ``output``.

    Raises:
        ConfigError: if a folder is no run, one of its files cannot be understood, or ``output`` cannot be written.
    """
    browser = find_browser() if pdf else None
    records = read_runs(runs)
    results, dense = merge_probes(records), read_dense(records)
    provenance = {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "versions": versions(),
    }
    page = render_page(records, results, provenance, dense)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "report.json", figures(records, results) | _dense(dense) | provenance)
        write_text(output / "report.html", page)
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written: {error.strerror or error}") from None
    if browser is not None:
        write_pdf(browser, output / "report.html", output / "report.pdf")
    finetuned = merge_finetuned(records, list(results.comparisons))
    if finetuned is not None:
        _say_shares(finetuned.results, "fine-tuned top-1 (%)")
    _say_shares(results, "held-out top-1 (%)")
    _say_adaptations(adaptations(records))
    say(f"{one_line(output / 'report.html')} and report.json over {len(records)} run{'s' * (len(records) > 1)}")


def _say_shares(results: ProbeResults, title: str) -> None:
    """Print a table of the page on the terminal."""
    labels = label_names(results)
    if not labels:
        return
    width = max(len(one_line(name)) for name in (title, *results.probes, *results.comparisons)) + 1
    say(f"{title:<{width}}" + "".join(f"{one_line(label):>24}" for label in labels))
    for model, shares in results.probes.items():
        spans = results.intervals.get(model, {})
        cells = (_cell("{:.1f}", shares.get(label), spans.get(label)) for label in labels)
        say(f"{one_line(model):<{width}}" + "".join(f"{cell:>24}" for cell in cells))
    for name, differences in results.comparisons.items():
        found = [differences.get(label) for label in labels]
        cells = (_cell("{:+.1f}", one.difference, (one.low, one.high)) if one else "-" for one in found)
        say(f"{one_line(name):<{width}}" + "".join(f"{cell:>24}" for cell in cells))


def _say_adaptations(found: dict[str, dict[str, Any]]) -> None:
    """Print what runs trained, what it cost and what it gained, if one trained a part of its encoder alone."""
    if not is_ladder(found):
        return
    rows = [ADAPTATION_HEAD, *([one_line(name), *adaptation_cells(one)] for name, one in found.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _dense(found: Mapping[str, DenseResults]) -> dict[str, Any]:
    """Return what report.json says of dense probes; nothing without any."""
    return {"dense": {name: results.model_dump() for name, results in found.items()}} if found else {}


def _cell(pattern: str, share: float | None, span: tuple[float, float] | None) -> str:
    if share is None:
        return "-"
    interval = f" ({' to '.join(pattern.format(100 * end) for end in span)})" if span else ""
    return pattern.format(100 * share) + interval


def figures(runs: list[RunRecord], results: ProbeResults) -> dict[str, Any]:
    """Return the content of report.json without its provenance: probes, losses, accuracies, states, and the curves as drawn."""
    trained = [run for run in runs if run.curves]
    finetuned = merge_finetuned(runs, list(results.comparisons))
    return {
        **results.model_dump(),
        **({} if finetuned is None else {"finetuned": finetuned.results.model_dump()}),
        "losses": {run.name: {"first": _losses(run, 0), "last": _losses(run, -1)} for run in trained},
        "validation": {run.name: run.validation.model_dump(exclude={"label", "predicted"}) for run in runs if run.validation},
        "adaptations": adaptations(runs),
        "evaluations": {run.name: run.evaluation.model_dump(exclude={"per_class"}) for run in runs if run.evaluation},
        "answers": {run.name: run.answers.model_dump(exclude_none=True) for run in runs if run.answers},
        "changed_inputs": {run.name: run.changed_inputs for run in runs if run.changed_inputs},
        "seconds": {run.name: run.status.seconds for run in runs},
        "runs": {run.name: {"objective": run.objective, "path": str(run.path), **run.status.model_dump()} for run in runs},
        "pictures": {run.name: numbers for run in runs if (numbers := picture_numbers(run.path))},
        "recipe_differences": recipe_differences(runs),
        "provenance": {run.name: attempt for run in runs if (attempt := attempt_of(run.path))},
        "curves": {run.name: {name: thin(curve)._asdict() for name, curve in run.curves.items()} for run in trained},
    }


def _losses(run: RunRecord, place: int) -> dict[str, float]:
    return {name: curve.values[place] for name, curve in run.curves.items() if name.startswith(("loss/", "loss_relative/"))}
