"""Where a run stands at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from launching import alone
from mvd_ds.files import read_json
from shrinking import RECIPE


@pytest.mark.launch
def test_a_schedule_shortened_below_what_is_done_is_finished(shrunk: list[str], tmp_path: Path) -> None:
    settings = [*shrunk, f"run.output={tmp_path}", "run.save_every_steps=2"]
    alone("distill", RECIPE, *settings, "schedule.steps=3")
    said = alone("distill", RECIPE, *settings, "schedule.steps=2").stdout
    assert "resuming from the checkpoint of step 3, past the end of the schedule at step 2" in said and "step 3 of 3 in" in said
    assert read_json(tmp_path / "status.json")["state"] == "finished"
    assert "is finished; nothing to do" in alone("distill", RECIPE, *settings, "schedule.steps=2").stdout
