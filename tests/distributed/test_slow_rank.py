"""Two processes under ZeRO-3, teachers sharded too: every gather waits for the slow one, and yet it is the one named."""

from __future__ import annotations

from pathlib import Path

import pytest

from launching import launch_script, metrics
from shrinking import RECIPE

pytestmark = pytest.mark.launch

#: Blocks that run forward in a step: 3 in each teacher and in the encoder, 2 in each decoder, twice by accumulation. With
#: activation checkpointing those of the student run again, at most.
BLOCKS, AGAIN = 2 * (3 + 3 + 3 + 2 + 2), 2 * (3 + 2 + 2)
SLOW_STEPS = 7


def test_the_slow_rank_is_named_not_the_one_that_waits(shrunk: list[str], tmp_path: Path) -> None:
    script = Path(__file__).with_name("slow_rank.py")
    settings = ["run.slow_rank_ratio=3", f"run.output={tmp_path}", "schedule.steps=14"]
    said = launch_script(2, script, str(SLOW_STEPS * (BLOCKS + AGAIN)), "distill", RECIPE, *shrunk, *settings).stdout
    lines = metrics(tmp_path)
    slow = lines[1:SLOW_STEPS]
    assert all(line["health/slowest_rank"] == 1 and line["health/max_over_median"] > 3 for line in slow)
    assert [line["health/slow_ranks"] for line in lines[:5]] == [0] * 5, "a window of log steps, after the first one"
    assert lines[SLOW_STEPS - 1]["health/slow_ranks"] == 1 and lines[-1]["health/slow_ranks"] == 0
    assert said.count("rank 1 on ") == 2 and "rank 0 on " not in said
    assert "is slow:" in said and "is as fast as the others again" in said
