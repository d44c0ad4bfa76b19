"""Trainings from Python: one after the other in one process, as in a notebook."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import mvd_ds
from launching import losses
from shrinking import RECIPE


def test_two_trainings_in_one_process_are_the_same_twice(
    shrunk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """DeepSpeed keeps its process groups for the life of a process, and those of the first training are gone."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads, found = torch.get_num_threads(), []
    for name in ("first", "second"):
        folder = mvd_ds.train(RECIPE, *shrunk, "schedule.steps=3", "run.device=cpu", f"run.output={tmp_path / name}")
        found.append(losses(folder))
        # Else the next one would take this process for a launcher's rank, and its shell for the launcher.
        assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & os.environ.keys()
    assert capfd.readouterr().out.count("this process computes with") == 2 and torch.get_num_threads() == threads
    assert len(found[0]) == 3 and found[0] == found[1]
