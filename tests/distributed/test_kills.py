"""Six kills at chosen places in one run; what comes out of it is the run that nobody touched, bit by bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from shrinking import RECIPE
from soak.kills import Life, check, kill, resumed_step, saved_step, strike, trace

pytestmark = pytest.mark.launch

PLACES = ("save", "launcher", "command", "rank 0", "group", "resume")


def killed(folder: Path, arguments: list[str], place: str, chance: random.Random) -> None:
    """Start the run and kill it at ``place``; a moment that was missed, as on a busy machine, is tried again.

    Resuming is over in an instant. So that a start whose resuming was missed does not run to the end, it stops a step later.
    """
    for _ in range(6):
        before = saved_step(folder)
        more = [f"run.stop_after_steps={before + 1}"] if place == "resume" else []
        with Life(folder, 2, [*arguments, *more]) as life:
            if place in ("save", "resume"):
                found = kill(life, place, chance)
            else:
                life.wait_until(lambda before=before: saved_step(folder) > before, "the next save")
                found = strike(life, place, 0, before)
        if found is None and place == "resume":
            continue
        assert found is not None, f"the run ended before all kills:\n{life.said()}"
        print(found)
        check(found)
        if found.kind == place:
            return
    raise AssertionError(f"{place} was missed six times")


def test_a_run_killed_six_times_is_the_untouched_run(run: Path, shrunk: list[str], tmp_path: Path) -> None:
    folder, chance = tmp_path / "run", random.Random(5)
    arguments = ["distill", RECIPE, *shrunk, "run.save_every_steps=1", "run.features_every_steps=5"]
    for place in PLACES:
        killed(folder, arguments, place, chance)
    before = saved_step(folder)
    with Life(folder, 2, arguments) as last:
        assert last.finish() == 0, last.said()
    assert resumed_step(last) == before
    assert trace(folder) == trace(run)
    weights, expected = (load_file(path / "model" / "model.safetensors") for path in (folder, run))
    assert weights.keys() == expected.keys() and all((weights[name] == expected[name]).all() for name in weights)
