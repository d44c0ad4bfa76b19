"""What the rows of an experiment are measured by, in one form: that of the linear probes in ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.protocol import Protocol
from mvd_ds.config import load_recipe
from mvd_ds.evaluation.probes import accuracy_interval, paired_interval

DRAWS = 2000


def measured(protocol: Protocol, report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a report with the results of a protocol's measure in place of linear probes, and ``unit``, the words for shares.

    Args:
        protocol: of the experiment.
        report: content of ``report.json``.
        folder: of the experiment's runs.
    """
    if protocol.measure == "probes":
        return report
    if protocol.measure == "dense":
        return of_read_outs(report)
    rows = {name: [folder / f"seed-{seed}" / name for seed in protocol.seeds] for name in protocol.rows}
    first = load_recipe(next(iter(protocol.rows.values())).recipe)
    return of_validations(report, getattr(first, "label", None) or "label", rows, protocol.compare)


def of_read_outs(report: dict[str, Any]) -> dict[str, Any]:
    """Return the dense probes of a report: of every network the block that training clips chose.

    Trainings that were measured on clips of their own are averaged; an interval then goes from the lowest to the highest end of
    theirs.
    """
    found = list(report["dense"].values())
    names = [name for name in found[0]["scores"] if "@" not in name]

    def each(over: Callable[[list[dict[str, Any]]], Any]) -> dict[str, dict[str, Any]]:
        return {
            name: {target: over([one["scores"][name][target] for one in found]) for target in found[0]["scores"][name]}
            for name in names
        }

    def joined(key: str) -> Callable[[list[dict[str, Any]]], list[Any]]:
        return lambda parts: [value for part in parts for value in part[key]]

    compared = {
        name: {target: _averaged([one["comparisons"][name][target] for one in found], "difference") for target in targets}
        for name, targets in found[0]["comparisons"].items()
    }
    return {
        "probes": each(lambda parts: _averaged(parts, "score")["score"]),
        "intervals": each(lambda parts: [_averaged(parts, "score")[key] for key in ("low", "high")]),
        "details": each(lambda parts: {"per_seed": joined("per_seed")(parts)}),
        "second": each(lambda parts: float(np.mean([part["second"] for part in parts]))),
        "blocks": each(joined("blocks")),
        "comparisons": compared,
        "chance": {name: target["guessed"] or 0.0 for name, target in found[0]["targets"].items()},
        "clips": found[0]["clips"],
        "trainings": sum(one["trainings"] for one in found),
        "unit": "R2 or accuracy",
    }


def _averaged(parts: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """Return the mean of a number of several trainings, from the lowest ``low`` to the highest ``high``."""
    return {
        key: float(np.mean([part[key] for part in parts])),
        "low": min(part["low"] for part in parts),
        "high": max(part["high"] for part in parts),
    }


def of_validations(
    report: dict[str, Any], label: str, rows: dict[str, list[Path]], compare: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the accuracies of fine-tuned rows on held-out videos, and what each row cost.

    Args:
        report: over all of their runs.
        label: the label that they learned.
        rows: run folders of every row, seed by seed.
        compare: pairs of rows.
    """
    right, costs = {}, {}
    for name, folders in rows.items():
        read = [json.loads((folder / "validation.json").read_text()) for folder in folders]
        right[name] = np.array([np.equal(one["predicted"], one["label"]) for one in read])
        own = {run["path"]: name for name, run in report["runs"].items()}
        told = [report["adaptations"][own[str(folder)]] for folder in folders]
        costs[name] = told[0] | {key: float(np.mean([one[key] for one in told])) for key in ("peak_gib", "seconds")}
    true = read[0]["label"]
    frequent = float(np.unique(true, return_counts=True)[1].max() / len(true))
    gains = {f"{a} minus {b}": paired_interval(right[a], right[b], DRAWS)._asdict() for a, b in compare}
    return {
        "probes": {name: {label: float(one.mean())} for name, one in right.items()},
        "intervals": {name: {label: accuracy_interval(one, DRAWS)[1:]} for name, one in right.items()},
        "details": {name: {label: {"per_seed": one.mean(1).tolist()}} for name, one in right.items()},
        "comparisons": {name: {label: gain} for name, gain in gains.items()},
        "chance": {label: frequent},
        "clips": {"held_out": len(true)},
        "costs": costs,
        "unit": "top-1",
    }
