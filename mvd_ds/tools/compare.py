"""This module compares two sets of fine-tuned runs on the same videos, paired by seed and video (``compare``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.evaluation.probes import ConfidenceInterval, paired_interval
from mvd_ds.files import decoded, read_json, write_json
from mvd_ds.runs.validation import HELD_OUT, PREDICTIONS
from mvd_ds.training.console import say
from mvd_ds.training.run_folder import RunFolder

DRAWS = 10_000
"""Resamples of videos and seeds."""


def compare_runs(runs: Sequence[Path], against: Sequence[Path], output: Path | None = None) -> ConfidenceInterval:
    """Print, and write to ``output``, how much more of the held-out videos ``runs`` get right than ``against``.

    The interval is a paired bootstrap of 95 % over videos and seeds: run i of one set is compared with run i of the other.

    Raises:
        ConfigError: if a run was not validated, or the runs are not as many or not of the same videos.
    """
    if len(runs) != len(against):
        raise ConfigError(f"compare: {len(runs)} runs against {len(against)}; give as many, in the order of their seeds")
    ours, theirs = np.split(_right([*runs, *against]), 2)
    found = paired_interval(ours, theirs, DRAWS)
    for names, right in ((runs, ours), (against, theirs)):
        each = ", ".join(f"{value:.3f}" for value in right.mean(1))
        say(f"top-1 {right.mean():.3f} ({each})  {', '.join(str(name) for name in names)}")
    say(
        f"difference {100 * found.difference:+.1f} points, 95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} "
        f"({len(runs)} seeds, {ours.shape[1]} videos)"
    )
    if output is not None:
        values = {"top1": float(ours.mean()), "against": float(theirs.mean()), **found._asdict()}
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, values | {"seeds": len(runs), "videos": ours.shape[1]})
    return found


def _right(runs: Sequence[Path]) -> np.ndarray:
    """Return which videos the last validation of each run got right, bool (runs, videos)."""
    rows, labels, videos = list[np.ndarray](), None, None
    for run in runs:
        if not (run / PREDICTIONS).exists():
            raise ConfigError(f"{run}: has no {PREDICTIONS}; give a folder of `finetune` with a validation.manifest")
        found = read_json(run / PREDICTIONS)
        if (task := found.get("task", "classes")) != "classes":
            raise ConfigError(f"{run}: was measured for task {task}, and compare counts right classes")
        if rows and len(found["label"]) != len(rows[0]):
            raise ConfigError(f"compare: {len(rows[0])} held-out videos in {runs[0]}, {len(found['label'])} in {run}")
        labels, videos = labels or found["label"], videos or _videos(run)
        if found["label"] != labels or _differ(videos, _videos(run)):
            raise ConfigError(f"{run}: was validated on other videos, or by another label, than {runs[0]}; both need the same")
        rows.append(np.array(found["predicted"]) == np.array(labels))
    return np.stack(rows)


def _videos(run: Path) -> str | list[tuple[str, ...]] | None:
    """Return what tells the held-out videos of a run: the ends of their paths, the digest of their list, or nothing."""
    if (run / HELD_OUT).exists():
        lines = decoded((run / HELD_OUT).read_bytes()).splitlines()
        return [Path(line.split("\t")[0]).parts[-2:] for line in lines if not line.startswith("#")]
    contents = RunFolder(run).contents
    return read_json(contents).get("validation.manifest") if contents.exists() else None


def _differ(one: str | list[tuple[str, ...]] | None, other: str | list[tuple[str, ...]] | None) -> bool:
    """Return whether two answers of ``_videos`` of the same kind are unlike."""
    return type(one) is type(other) and one != other
