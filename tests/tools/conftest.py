"""Run folders as training and probing leave them, small, with numbers that a test can check by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


def _training_run(folder: Path, steps: int = 30, **status: Any) -> Path:
    """A distillation run with two teachers, a line of metrics every 10 steps; features at the last two."""
    folder.mkdir(parents=True)
    teachers = {"image": {"kind": "image", "loss": "smooth_l1"}, "video": {"kind": "video", "loss": "smooth_l1"}}
    recipe = {"objective": "distillation", "teachers": teachers}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    lines = []
    for step in range(10, steps + 1, 10):
        values = {"step": step, "loss/total": 30.0 / step, "loss/image": 10.0 / step, "loss/video": 20.0 / step}
        values |= {"optim/lr": 1e-3, "optim/gradient_norm": 0.5, "optim/skipped_steps": 0.0}
        values |= {"perf/clips_per_second": 90.0 + step, "perf/data_wait_share": 0.02, "memory/peak_gib": 1.5}
        if step > steps - 20:
            values |= {"loss_relative/image": 0.4, "loss_relative/video": 0.7, "student/effective_rank": 20.0}
            values |= {f"{side}/variance_{name}": 0.5 for side in ("target", "prediction") for name in teachers}
        lines.append(json.dumps(values))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = {"state": "finished", "command": "mvd_ds distill x", "attempts": 1, "step": steps, "last_step": steps}
    (folder / "status.json").write_text(json.dumps({**told, "seconds": 61.5, "replaced_videos": {}, **status}))
    return folder


def _probe_run(folder: Path, how: tuple[float, float, float] = (0.08, 0.05, 0.11), student: str = "student", **more: Any) -> Path:
    """A probe run that compares ``student`` with untrained; ``how`` is difference, low and high of the second label."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"objective": "probe", "models": {student: {"weights": "w"}}}))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "attempts": 1, "seconds": 12.0}))
    probes = {student: {"what": 0.54, "how": 0.48}, "untrained": {"what": 0.31, "how": 0.40}}
    details = {
        model: {label: {"per_seed": [share - 0.01, share, share + 0.01]} for label, share in shares.items()}
        for model, shares in probes.items()
    }
    counts = {"clips": 2000, "seeds": 3}
    what = {"difference": 0.23, "low": 0.2, "high": 0.26, **counts}
    compared = {"what": what, "how": {**dict(zip(("difference", "low", "high"), how, strict=True)), **counts}}
    results = {
        "probes": probes,
        "chance": {"what": 0.1, "how": 0.125},
        "details": details,
        "comparisons": {f"{student} minus untrained": compared},
        "clips": {"train": 4000, "held_out": 2000},
        "pooling": "mean",
        "labels": {"what": 10, "how": 8},
    }
    (folder / "probes.json").write_text(json.dumps({**results, **more}))
    return folder


@pytest.fixture
def training_run() -> Callable[..., Path]:
    """Writes a distillation run; see ``_training_run``."""
    return _training_run


@pytest.fixture
def probe_run() -> Callable[..., Path]:
    """Writes a probe run; see ``_probe_run``."""
    return _probe_run
