"""Pictures that the image teacher alone learns from, through the launcher: killed and started again, and by one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from launching import launch, losses, metrics
from shrinking import RECIPE
from soak.kills import Life, saved_step, strike, trace


@pytest.mark.nightly
@pytest.mark.launch
def test_a_killed_run_and_one_process_are_the_run_of_two(shrunk: list[str], coded_parts: list[str], tmp_path: Path) -> None:
    command = ["distill", RECIPE, *shrunk, *coded_parts, "optimizer.ema_decay=0.9", "run.save_every_steps=1"]
    two, one, killed = (tmp_path / name for name in ("two", "one", "killed"))
    launch(2, *command, f"run.output={two}")
    assert metrics(two)[-1]["data/epochs_train_3"] > 4, "a third of 160 clips are of 12 pictures"
    for place in ("rank 0", "group"):
        before = saved_step(killed)
        with Life(killed, 2, command) as life:
            life.wait_until(lambda before=before: saved_step(killed) > before + 2, "the next saves")
            assert strike(life, place, 0, before) is not None, life.said()
    with Life(killed, 2, command) as last:
        assert last.finish() == 0, last.said()
    assert trace(killed) == trace(two)
    for file in ("model.safetensors", "ema.safetensors"):
        found, expected = (load_file(run / "model" / file) for run in (killed, two))
        assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in expected), file
    launch(1, *command, f"run.output={one}")
    for name in ("total", "image", "image_summary", "video", "video_relations", "video_codes", "labels", "language"):
        assert losses(one, f"loss/{name}") == pytest.approx(losses(two, f"loss/{name}"), rel=1e-5), name
