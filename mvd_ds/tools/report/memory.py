"""The table of measured memory: what a training step holds in every run, part by part, and the peak of every phase."""

from __future__ import annotations

from mvd_ds.tools.report.formatting import memory_size, memory_unit
from mvd_ds.tools.report.run_records import RunRecord
from mvd_ds.tools.report.templating import Row, Table, cells

WORDS = {
    "weights": "trained weights (shards under ZeRO-3)",
    "live": "gathered weights",
    "gradients": "gradients",
    "masters": "fp32 master weights",
    "optimizer": "optimizer states (Adam's moments)",
    "buckets": "communication buckets",
    "data": "batches",
    "activations": "activations and temporaries of a step",
    "temporaries": "temporaries",
}
"""Names of parts in the order of the table; teachers follow the gathered weights."""
PHASES = {
    "build": "peak while the networks are built",
    "resume": "peak while a checkpoint is read",
    "step": "peak while training",
    "save": "peak while a checkpoint is written",
}
_HELD = ("step", "save", "resume", "build")
"""Phases by how well their parts tell what training holds."""


def memory_table(runs: list[RunRecord]) -> Table | None:
    """Return sizes by part and the peak of every phase, a column for each run; None if no run measured its parts.

    The unit is that of the largest part: where parts are MiB, a peak of thousands of them can still be read.
    """
    measured = {run.name: found for run in runs if (found := _measured(run))}
    rows: list[Row] = []
    peaks = set(PHASES.values())
    parts = [value for found in measured.values() for name, value in found.items() if name not in peaks]
    unit = memory_unit(parts or [value for found in measured.values() for value in found.values()])
    names = list(dict.fromkeys(name for found in measured.values() for name in found))
    for name in [*_ordered([name for name in names if name not in peaks]), *PHASES.values()]:
        if name in names:
            is_first_peak = name in peaks and not any(row.kind for row in rows)
            values = cells(*(memory_size(found[name], unit) if name in found else "" for found in measured.values()))
            rows.append(Row(_words(name), values, "group" if is_first_peak else ""))
    return Table(["part", *(f"{name} ({unit[0]})" for name in measured)], rows) if rows else None


def _measured(run: RunRecord) -> dict[str, float]:
    """Return GiB by part, of the phase that tells most of training, and by phase the peak under its words."""
    phases = {phase: _of_phase(run, phase) for phase in PHASES}
    held = next((phases[phase] for phase in _HELD if len(phases[phase].keys() - {"peak"})), {})
    parts = {name: value for name, value in held.items() if name != "peak"}
    return parts | {words: phases[phase]["peak"] for phase, words in PHASES.items() if "peak" in phases[phase]}


def _of_phase(run: RunRecord, phase: str) -> dict[str, float]:
    prefix = f"memory/{phase}_"
    return {
        name.removeprefix(prefix).removesuffix("_gib"): curve.values[-1]
        for name, curve in run.curves.items()
        if name.startswith(prefix)
    }


def _ordered(names: list[str]) -> list[str]:
    known = list(WORDS)
    teachers = sorted(set(names) - WORDS.keys())
    return [*(name for name in known[:2] if name in names), *teachers, *(name for name in known[2:] if name in names)]


def _words(name: str) -> str:
    return WORDS.get(name) or (name if name in PHASES.values() else f"teacher {name.removeprefix('teacher_')}")
