"""Where the memory of training runs is: measured bytes by part and peaks by phase, one column a run."""

from __future__ import annotations

from mvd_ds.tools.markup import Html, element, row, table
from mvd_ds.tools.records import RunRecord

#: Parts in the order in which a person asks for them; teachers follow the weights, other parts stand at the end.
PARTS = ("weights", "live", "gradients", "masters", "optimizer", "buckets", "activations")
WORDS = {
    "weights": "weights that are trained (shards under ZeRO-3)",
    "live": "gathered weights",
    "gradients": "gradients",
    "masters": "fp32 masters",
    "optimizer": "moments of Adam",
    "buckets": "communication buckets",
    "activations": "activations and temporaries of a step",
}
PHASES = ("build", "resume", "step", "save")


def memory_section(runs: list[RunRecord]) -> Html | None:
    """Measured memory of every run that told its parts; None without any."""
    told = [(run, parts) for run in runs if (parts := _measured(run))]
    if not told:
        return None
    names = list(dict.fromkeys(name for _, parts in told for name in parts))
    teachers = [name for name in names if name.startswith("teacher_")]
    rows = [
        row(_words(name), *(_number(parts.get(name)) for _, parts in told))
        for name in (*PARTS[:2], *teachers, *PARTS[2:])
        if name in names
    ]
    rows += [
        row(f"peak at {phase}", *(_number(parts.get(f"{phase}_peak")) for _, parts in told), class_="group")
        for phase in PHASES
        if f"{phase}_peak" in names
    ]
    note = (
        "GiB of the process that takes most. Parts are bytes of tensors that the engines hold; activations are what a step "
        "took above them; peaks are resident memory on a CPU and torch's allocations on a GPU."
    )
    head = ["part", *(run.name for run, _ in told)]
    return element("section", element("h2", "Memory by part"), table(head, rows), element("p", note, class_="quiet"))


def _measured(run: RunRecord) -> dict[str, float]:
    found = {
        name.removeprefix("memory/").removesuffix("_gib"): curve.values[0]
        for name, curve in run.curves.items()
        if name.startswith("memory/") and name != "memory/peak_gib"
    }
    return found if "weights" in found else {}


def _words(name: str) -> str:
    return WORDS.get(name) or f"teacher {name.removeprefix('teacher_')}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"
