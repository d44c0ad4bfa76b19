"""Where the memory of training runs is: measured bytes by part in every phase, one table a run."""

from __future__ import annotations

from mvd_ds.tools.report.markup import Html, element, row, table
from mvd_ds.tools.report.run_records import RunRecord

#: Parts in the order in which a person asks for them; teachers follow the gathered weights.
WORDS = {
    "weights": "weights that are trained (shards under ZeRO-3)",
    "live": "gathered weights",
    "gradients": "gradients",
    "masters": "fp32 masters",
    "optimizer": "moments of Adam",
    "buckets": "communication buckets",
    "data": "batches",
    "activations": "activations and temporaries of a step",
    "temporaries": "temporaries",
    "peak": "peak of the process",
}
PHASES = ("build", "resume", "step", "save")


def memory_section(runs: list[RunRecord]) -> Html | None:
    """Measured memory of every run that told its parts; None without any."""
    tables = []
    for run in runs:
        measured = {phase: parts for phase in PHASES if (parts := _measured(run, phase))}
        if measured:
            names = {name for parts in measured.values() for name in parts}
            rows = [
                row(
                    _words(name),
                    *(_number(parts.get(name)) for parts in measured.values()),
                    class_="group" if name == "peak" else None,
                )
                for name in _ordered(names)
            ]
            tables += [element("h3", run.name), table(["part", *measured], rows)]
    if not tables:
        return None
    note = (
        "GiB of the process that takes most, in the newest attempt that measured the phase. Parts are bytes of tensors that are "
        "held when a phase ends; temporaries and activations are what it took above them; peaks are resident memory on a CPU "
        "and torch's allocations on a GPU."
    )
    return element("section", element("h2", "Memory by part"), *tables, element("p", note, class_="quiet"))


def _measured(run: RunRecord, phase: str) -> dict[str, float]:
    prefix = f"memory/{phase}_"
    return {
        name.removeprefix(prefix).removesuffix("_gib"): curve.values[-1]
        for name, curve in run.curves.items()
        if name.startswith(prefix)
    }


def _ordered(names: set[str]) -> list[str]:
    known = list(WORDS)
    return [
        *(name for name in known[:2] if name in names),
        *sorted(names - WORDS.keys()),
        *(name for name in known[2:] if name in names),
    ]


def _words(name: str) -> str:
    return WORDS.get(name) or f"teacher {name.removeprefix('teacher_')}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"
