"""Probes of several runs merged into one result: pooled if they repeat one experiment with other seeds, else side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from mvd_ds.evaluation.harmonic import harmonic_mean, spread
from mvd_ds.evaluation.probes import ConfidenceInterval, accuracy_interval
from mvd_ds.files import ConfigError, one_line
from mvd_ds.runs.probing.probe_results import CORRECT
from mvd_ds.tools.report.encoders.halves import BothHalves, Halves
from mvd_ds.tools.report.run_records import Difference, ProbeDetails, ProbeResults, RunRecord

DRAWS = 2000
"""Number of bootstrap resamples of training seeds and held-out clips."""


def merge_probes(runs: list[RunRecord]) -> ProbeResults:
    """Return the probes of all runs as one result.

    Runs that differ in ``run.seed`` and the weights that they probe are pooled: shares are means over training seeds, and
    intervals resample these and the clips. Several such experiments whose names differ, probes by other heads for example, share
    one table. Of other runs, every model has its run's name in front.
    """
    found = [run for run in runs if run.results is not None and run.results.probes]
    if len(found) == 1 and found[0].results is not None:
        return found[0].results
    groups: list[list[RunRecord]] = []
    for run in found:
        group = next((group for group in groups if experiment(group[0]) == experiment(run)), None)
        groups.append([run]) if group is None else group.append(run)
    parts = [pooled for group in groups if (pooled := _pooled_if_one(group)) is not None]
    if not groups or len(parts) < len(groups) or (len(groups) > 1 and not _fit_beside(parts)):
        return _side_by_side(found)
    return _joined(parts)


def _pooled_if_one(runs: list[RunRecord]) -> ProbeResults | None:
    """Return several seeds of one experiment as one result; None if they are not that."""
    if len(runs) < 2 or not _repeat(runs):
        return None
    tables = [_tables(run) for run in runs]
    return _pooled(runs, tables) if all(np.array_equal(table["labels"], tables[0]["labels"]) for table in tables) else None


def _fit_beside(parts: list[ProbeResults]) -> bool:
    """Return whether results of several experiments, such as other heads on the same networks, can share one table."""
    names = [name for part in parts for name in part.probes]
    return len(set(names)) == len(names) and all(
        (part.labels, part.trainings) == (parts[0].labels, parts[0].trainings) for part in parts
    )


def _joined(parts: list[ProbeResults]) -> ProbeResults:
    """Return results with names of their own as one; chance is that of the first."""
    merged = parts[0].model_copy(deep=True)
    for part in parts[1:]:
        for field in ("probes", "intervals", "details", "comparisons", "encoders"):
            setattr(merged, field, {**getattr(merged, field), **getattr(part, field)})
    return merged


def _repeat(runs: list[RunRecord]) -> bool:
    """Return whether the runs are one experiment with several training seeds and hold what each probe got right."""
    seeds = {run.recipe.get("run", {}).get("seed") for run in runs}
    first = experiment(runs[0])
    same = all(experiment(run) == first for run in runs[1:])
    return same and len(seeds) == len(runs) and all((run.path / CORRECT).exists() for run in runs)


def experiment(run: RunRecord) -> dict[str, Any]:
    """Return the recipe without seed, folder and weights."""
    models = run.recipe.get("models", {})
    networks = {name: {key: value for key, value in model.items() if key != "weights"} for name, model in models.items()}
    return {**run.recipe, "run": None, "models": networks}


def _tables(run: RunRecord) -> dict[str, np.ndarray]:
    try:
        with np.load(run.path / CORRECT, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{run.path / CORRECT}: cannot be read: {one_line(error, 200)}; start the probe again to write it anew"
        ) from None


def _pooled(runs: list[RunRecord], tables: list[dict[str, np.ndarray]]) -> ProbeResults:
    first = runs[0].results
    assert first is not None

    def right(model: str, label: str) -> list[np.ndarray]:
        """Return the share of probe seeds that were right, (clips,) for each training."""
        return [table[f"{model}/{label}"].mean(0) for table in tables]

    pooled = ProbeResults(chance=first.chance, clips=first.clips, pooling=first.pooling, labels=first.labels, trainings=len(runs))
    pooled.encoders = first.encoders
    for model, label in itertools.product(first.probes, first.labels):
        if label not in first.probes[model]:
            continue
        interval = _interval(right(model, label))
        pooled.probes.setdefault(model, {})[label] = interval.difference
        pooled.intervals.setdefault(model, {})[label] = interval[1:]
        details = ProbeDetails(per_seed=[float(one.mean()) for one in right(model, label)])
        pooled.details.setdefault(model, {})[label] = details
    for name, label in itertools.product(first.comparisons, first.labels):
        if label not in first.comparisons[name]:
            continue
        ours, theirs = (right(side, label) for side in name.split(" minus "))
        difference = _interval([a.astype(np.float32) - b.astype(np.float32) for a, b in zip(ours, theirs, strict=True)])
        counts = {"clips": min(map(len, ours)), "seeds": len(runs)}
        pooled.comparisons.setdefault(name, {})[label] = Difference(**difference._asdict(), **counts)
    pooled.base_to_new = {label: _halves(runs, label, right) for label in first.base_to_new}
    return pooled


def _interval(shares: list[np.ndarray]) -> ConfidenceInterval:
    """Return the mean with its interval, over the same clips, or over clips of their own where trainings drew classes."""
    if len({len(one) for one in shares}) == 1:
        return accuracy_interval(np.stack(shares), DRAWS)
    return spread([shares], float, DRAWS)


def _halves(runs: list[RunRecord], label: str, right: Callable[[str, str], list[np.ndarray]]) -> Halves:
    """Return the harmonic means of a label over all trainings."""
    told = [run.results.base_to_new[label] for run in runs if run.results is not None]
    models = {}
    for name, one in told[0].models.items():
        base = right(name, f"{label} base")
        share = float(np.mean([part.mean() for part in base]))
        if one.new is None:
            models[name] = BothHalves(base=share, why=one.why)
            continue
        new = right(name, f"{label} new")
        found = spread([base, new], harmonic_mean, DRAWS)
        other = float(np.mean([part.mean() for part in new]))
        models[name] = BothHalves(base=share, new=other, harmonic=found.difference, interval=(found.low, found.high))
    same = all(one.classes == told[0].classes for one in told)
    return Halves(pick=told[0].pick, classes=told[0].classes if same else {}, models=models)


def _side_by_side(runs: list[RunRecord]) -> ProbeResults:
    merged = ProbeResults()
    for run in runs:
        assert run.results is not None
        part = run.results.renamed(f"{run.name}/")
        for field in ("probes", "intervals", "details", "comparisons", "chance", "labels", "encoders", "base_to_new"):
            setattr(merged, field, {**getattr(merged, field), **getattr(part, field)})
        merged.clips = {**merged.clips, **{f"{run.name} {split}": count for split, count in part.clips.items()}}
        merged.pooling = part.pooling if merged.pooling in ("", part.pooling) else "differently"
    return merged
