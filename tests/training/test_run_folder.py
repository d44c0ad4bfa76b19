"""When a run folder counts as finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import load_recipe
from mvd_ds.training.run_folder import RunFolder, Status


@pytest.mark.parametrize(
    ("override", "finished"),
    [("run.stop_before_seconds=60", True), ("run.seed=1", False), ("optimizer.base_lr=1e-3", False)],
)
def test_the_time_limit_of_a_job_makes_no_other_run(tmp_path: Path, override: str, finished: bool) -> None:
    folder, recipe = RunFolder(tmp_path), load_recipe("quickstart_video")
    folder.open(recipe)
    folder.model.mkdir()
    Status(folder, last_step=10).write("finished", 10)
    assert folder.is_finished(recipe, "model")
    assert folder.is_finished(load_recipe("quickstart_video", [override]), "model") is finished
