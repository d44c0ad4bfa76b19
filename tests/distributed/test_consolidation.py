"""A checkpoint of a real ZeRO run, read without DeepSpeed, is the model that the run exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mvd_ds
from launching import launch
from shrinking import RECIPE

pytestmark = pytest.mark.launch


def equals_export(run: Path) -> bool:
    exported, checkpoint = load_file(run / "model" / "model.safetensors"), mvd_ds.read_checkpoint(run)
    assert checkpoint.state.keys() == exported.keys()
    return all(torch.equal(checkpoint.state[name], value) for name, value in exported.items())


def test_stage_three(run: Path) -> None:
    assert equals_export(run)


def test_stage_two_in_bf16(shrunk: list[str], tmp_path: Path) -> None:
    short = ["engine.config=zero2.json", "engine.precision=bf16", "schedule.steps=3", "schedule.warmup_steps=1"]
    launch(2, "distill", RECIPE, *shrunk, *short, f"run.output={tmp_path}")
    assert equals_export(tmp_path)
