"""The watch of numbers that fall when features collapse."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mvd_ds.config import dump, validate
from mvd_ds.runs.any_training import train_by_name
from mvd_ds.training.reporting.collapse import CollapseWatch


def test_a_number_that_falls_is_told_once_until_it_has_risen_again() -> None:
    watch = CollapseWatch(0.1)
    rank = "student/effective_rank"
    assert [len(watch.look(step, {rank: value})) for step, value in enumerate((20.0, 50.0, 5.1, 4.9, 3.0, 9.0, 2.0))] == [
        *(0, 0, 0, 1, 0, 0, 1)
    ]
    (line,) = CollapseWatch(0.5).look(7, {"target/variance_own": 0.0}) or ["none"]
    assert line == "none", "what never was more has not fallen"


def test_assignments_collapse_to_one_prototype_or_to_none() -> None:
    watch = CollapseWatch(0.5)
    assert not watch.look(1, {"prototypes/own_patch_usage": 0.9, "prototypes/own_class_entropy": 0.4, "loss/total": 9.0})
    lines = watch.look(2, {"prototypes/own_patch_usage": 0.1, "prototypes/own_class_entropy": 0.99, "loss/total": 0.1})
    assert len(lines) == 2 and "1 - prototypes/own_class_entropy is 0.01" in lines[1]
    assert not CollapseWatch(0.0).look(2, {"student/effective_rank": 0.0})


def test_standardised_targets_that_shrink_are_told_by_the_deviation_that_they_had() -> None:
    watch = CollapseWatch(0.1)
    name, kept = "statistics/own_standardise_deviation", {"target/variance_own": 1.0, "loss/own_deviation": 1.0}
    assert not watch.look(1, {**kept, name: 0.5})
    (line,) = watch.look(2, {**kept, name: 0.04, "loss/own_deviation": 0.0})
    assert name in line


def test_a_run_whose_features_collapse_says_so(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A student that is its own teacher, without centres: one prototype for all clips is the easiest to predict."""
    head = {"outputs": 32, "hidden": 16, "bottleneck": 8, "centre_momentum": 1.0, "teacher_temperature": [0.02, 0.02]}
    values = {
        "objective": "distillation",
        "run": {"features_every_steps": 1, "log_every_steps": 1, "collapse_share": 0.5, "output": str(tmp_path / "run")},
        "data": {"manifest": f"{videos}/train.txt", "clip": {"frames": 4, "stride_frames": 1, "size_px": 24}, "workers": 0},
        "masking": {"ratio": 0.5, "kind": "random"},
        "model": {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_px": 12, "cls_token": True},
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "teachers": {"own": {"weights": "ema", "target": {"kind": "prototypes", "norm": "final", "prototypes": head}}},
        "batch": {"micro": 8, "global": 8},
        "optimizer": {"base_lr": 1.0, "min_base_lr": 1.0, "ema_decay": 0.01},
        "schedule": {"steps": 12, "warmup_steps": 0},
        "engine": {"config": "zero1.json", "precision": "fp32"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(dump(validate(values, "test"))))
    train_by_name(str(tmp_path / "own.yaml"), [])
    said = capsys.readouterr().out
    assert "prototypes/own_class_usage is" in said and "below run.collapse_share 0.5" in said and "features collapse" in said
