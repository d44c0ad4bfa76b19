"""Requests to stop: who may make them, and that time is left for the save."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.liveness import stop as room
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.loop import Training
from mvd_ds.training.run_folder import RunFolder

ALONE = Cluster(0, 1, torch.device("cpu"))


def recipe(*overrides: str) -> TrainingRecipe:
    made = load_recipe("quickstart_distill", list(overrides))
    assert isinstance(made, TrainingRecipe)
    return made


def test_a_file_asks_and_the_first_reason_counts(tmp_path: Path) -> None:
    folder, stop = RunFolder(tmp_path), StopRequests()
    stop.look(folder, recipe().run)
    assert stop.agreed(ALONE) is None
    folder.control.mkdir()
    folder.stop.touch()
    stop.look(folder, recipe().run)
    stop.request("too late")
    assert stop.agreed(ALONE) == f"{tmp_path}/control/stop is there"


@pytest.mark.parametrize(("age", "asks"), [(69.0, False), (71.0, True), (200.0, True)])
def test_a_job_that_ends_after_100_s_stops_two_saves_of_15_s_before(
    age: float, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "age_seconds", lambda: age)
    stop = StopRequests()
    stop.save_seconds = lambda: 15.0
    stop.look(RunFolder(tmp_path), recipe("run.stop_before_seconds=100").run)
    assert (stop.agreed(ALONE) == "run.stop_before_seconds 100 are nearly over") == asks


def test_the_first_step_of_a_job_with_a_time_limit_is_saved() -> None:
    def saved(*overrides: str, seconds: float | None) -> list[int]:
        parts = dict.fromkeys(field.name for field in fields(Training))
        settings = recipe("run.save_every_steps=4", *overrides)
        training = Training(**parts | {"recipe": settings, "checkpoints": SimpleNamespace(last_save_seconds=seconds)})
        return [done for done in range(1, 11) if training._is_save_due(done, 10)]

    assert saved(seconds=None) == [4, 8, 10]
    assert saved("run.stop_before_seconds=100", seconds=15.0) == [4, 8, 10]
    assert saved("run.stop_before_seconds=100", seconds=None)[0] == 1
