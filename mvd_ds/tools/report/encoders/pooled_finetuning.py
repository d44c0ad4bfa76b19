"""Fine-tuned runs of several networks, labels and seeds as one result, with intervals over seeds and held-out videos."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from mvd_ds.evaluation.probes import accuracy_interval, chance, paired_interval
from mvd_ds.tools.report.run_records import Difference, ProbeDetails, ProbeResults, RunRecord

DRAWS = 2000
"""Number of bootstrap resamples of training seeds and held-out videos."""


class Finetuned(NamedTuple):
    """One result over many fine-tuned runs, and the runs that it stands for."""

    results: ProbeResults
    """Top-1 by network and label, as of probes."""
    runs: list[RunRecord]


def merge_finetuned(runs: list[RunRecord], compared: list[str]) -> Finetuned | None:
    """Return the fine-tuned runs among ``runs`` as one result; None unless several networks had the same labels and seeds.

    The folder of a run says which network it started from: ``NETWORK-LABEL``. Runs of one network and label are one experiment
    with several seeds if their settings are equal otherwise.

    Args:
        runs: runs of any kind.
        compared: pairs ``NETWORK minus NETWORK`` to compare, as probes name them.
    """
    found: dict[str, dict[str, dict[int, RunRecord]]] = {}
    for run in runs:
        label = run.recipe.get("label")
        if run.validation is None or run.objective != "classification" or not run.path.name.endswith(f"-{label}"):
            continue
        seeds = found.setdefault(run.path.name.removesuffix(f"-{label}"), {}).setdefault(str(label), {})
        seeds[int(run.recipe.get("run", {}).get("seed", 0))] = run
    members = [run for labels in found.values() for seeds in labels.values() for run in seeds.values()]
    if len(found) < 2 or not _is_one_experiment(found, members):
        return None
    return Finetuned(_pooled(found, compared), members)


def _is_one_experiment(found: dict[str, dict[str, dict[int, RunRecord]]], members: list[RunRecord]) -> bool:
    """Return whether all networks have the same labels and seeds, and their runs differ in nothing but the network."""
    plans = [{label: set(seeds) for label, seeds in labels.items()} for labels in found.values()]
    recipes = [{**run.recipe, "run": None, "label": None, "weights": None, "model": None} for run in members]
    asked: dict[Any, list[int]] = {}
    alike = True
    for run in members:
        assert run.validation is not None
        labels = asked.setdefault(run.recipe.get("label"), run.validation.label)
        alike &= labels == run.validation.label and len(run.validation.predicted) == len(labels) > 0
    return alike and all(plan == plans[0] for plan in plans) and all(recipe == recipes[0] for recipe in recipes)


def _pooled(found: dict[str, dict[str, dict[int, RunRecord]]], compared: list[str]) -> ProbeResults:
    labels = {label: seeds for labels in found.values() for label, seeds in labels.items()}
    first = next(iter(labels.values()))
    truths = {label: np.array(_validation(next(iter(seeds.values()))).label) for label, seeds in labels.items()}
    pooled = ProbeResults(
        chance={label: chance(truth) for label, truth in truths.items()},
        clips={"held_out": len(next(iter(truths.values())))},
        labels={label: len(np.unique(truth)) for label, truth in truths.items()},
        trainings=len(first),
    )

    def right(network: str, label: str) -> np.ndarray:
        """Return which videos were classified rightly, bool (seeds, videos)."""
        seeds = sorted(found[network][label].items())
        return np.stack([np.array(_validation(run).predicted) == truths[label] for _, run in seeds])

    for network, label in itertools.product(found, labels):
        table = right(network, label)
        interval = accuracy_interval(table, DRAWS)
        pooled.probes.setdefault(network, {})[label] = interval.difference
        pooled.intervals.setdefault(network, {})[label] = interval[1:]
        pooled.details.setdefault(network, {})[label] = ProbeDetails(per_seed=table.mean(1).tolist())
    for name in compared:
        ours, _, theirs = name.partition(" minus ")
        if ours not in found or theirs not in found:
            continue
        for label in labels:
            difference = paired_interval(right(ours, label), right(theirs, label), DRAWS)
            counts = {"clips": len(truths[label]), "seeds": len(first)}
            pooled.comparisons.setdefault(name, {})[label] = Difference(**difference._asdict(), **counts)
    return pooled


def _validation(run: RunRecord) -> Any:
    return run.validation
