"""What the rows of an experiment are measured by, in one form: that of the linear probes in ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """Return the dense probes of a report: of every network the block that training clips chose."""
    (found,) = report["dense"].values()
    shown = {name: scores for name, scores in found["scores"].items() if "@" not in name}

    def each(*keys: str) -> dict[str, dict[str, Any]]:
        return {
            name: {target: one[keys[0]] if len(keys) == 1 else [one[key] for key in keys] for target, one in scores.items()}
            for name, scores in shown.items()
        }

    each_seed = {name: {key: {"per_seed": one["per_seed"]} for key, one in scores.items()} for name, scores in shown.items()}
    return {
        "probes": each("score"),
        "intervals": each("low", "high"),
        "details": each_seed,
        "second": each("second"),
        "blocks": each("blocks"),
        "comparisons": found["comparisons"],
        "chance": {name: target["guessed"] or 0.0 for name, target in found["targets"].items()},
        "clips": found["clips"],
        "trainings": found["trainings"],
        "unit": "R2 or accuracy",
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
