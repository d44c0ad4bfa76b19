"""The sense of time of frozen encoders: clips told from the same ones played otherwise, and labels of clips played so."""

from __future__ import annotations

from mvd_ds.tools.report.formatting import MISSING, percent, span
from mvd_ds.tools.report.run_records import RunRecord
from mvd_ds.tools.report.templating import Cell, Row, Table

NOTE = (
    "A probe that is fitted to tell clips from the same ones played otherwise is right in half of the cases if the encoder has "
    "no sense of order. Beside it, top-1 of the probes of the labels on clips that are played as they are, and so. Small print: "
    "95 % bootstrap intervals over clips and seeds."
)


def order_table(runs: list[RunRecord]) -> Table | None:
    """Return a row for every probe and way of playing, of each run by itself; None without such tests."""
    tested = [(run, run.results) for run in runs if run.results is not None and run.results.order]
    labels = list(dict.fromkeys(label for _, results in tested for label in results.labels))
    rows = []
    for run, results in tested:
        for name, ways in results.order.items():
            for way, found in ways.items():
                cells = [Cell(way), Cell(percent(found.told.top1), span(*found.told.interval))]
                for label in labels:
                    own = results.probes.get(name, {}).get(label)
                    changed = found.labels.get(label)
                    cells.append(Cell(MISSING if own is None else percent(own)))
                    cells.append(Cell(MISSING) if changed is None else Cell(percent(changed.top1), span(*changed.interval)))
                rows.append(Row(f"{run.name}/{name}" if len(tested) > 1 else name, cells))
    if rows:
        rows.append(Row("no sense of order", [Cell(""), Cell(percent(0.5)), *[Cell("")] * (2 * len(labels))], "aside"))
    head = ["probe", "clips are", "told apart", *(text for label in labels for text in (label, f"{label}, played so"))]
    return Table(head, rows, "measured") if rows else None
