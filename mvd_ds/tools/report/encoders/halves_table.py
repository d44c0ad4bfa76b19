"""Base and new classes side by side: probes that were fitted on half of the classes, and asked for both halves."""

from __future__ import annotations

from mvd_ds.tools.report.formatting import MISSING, percent, span
from mvd_ds.tools.report.run_records import ProbeResults
from mvd_ds.tools.report.templating import Cell, Row, Table


def halves_table(results: ProbeResults) -> Table | None:
    """Return base, new and harmonic mean of every model by label; None where no classes were halved."""
    if not results.base_to_new:
        return None
    names = dict.fromkeys(name for halves in results.base_to_new.values() for name in halves.models)
    rows = []
    for name in names:
        shown = []
        for halves in results.base_to_new.values():
            found = halves.models.get(name)
            shares = (None, None) if found is None else (found.base, found.new)
            shown += [Cell(MISSING if share is None else percent(share)) for share in shares]
            mean = None if found is None else found.harmonic
            ends = None if found is None else found.interval
            shown.append(Cell(MISSING if mean is None else percent(mean), span(*ends) if ends else ""))
        rows.append(Row(name, shown))
    columns = [f"{label}, {what}" for label in results.base_to_new for what in ("base", "new", "harmonic mean")]
    return Table(["top-1", *columns], rows)


def halves_note(results: ProbeResults) -> str:
    """Return which classes are base, and why some models have no answer for the others."""
    told = []
    for label, halves in results.base_to_new.items():
        if halves.classes:
            parts = (f"{half} {', '.join(repr(name) for name in names)}" for half, names in halves.classes.items())
            told.append(f"{label} ({halves.pick}): {'; '.join(parts)}.")
        else:
            told.append(f"{label}: each training drew its own halves.")
    reasons = dict.fromkeys(found.why for halves in results.base_to_new.values() for found in halves.models.values() if found.why)
    for reason in reasons:
        silent = dict.fromkeys(
            name for halves in results.base_to_new.values() for name, found in halves.models.items() if found.why == reason
        )
        told.append(f"{', '.join(silent)}: {reason}.")
    return " ".join(told)
