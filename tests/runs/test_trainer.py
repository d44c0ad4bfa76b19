"""What a training says of itself before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.runs.trainer import describe_batches


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (21, "learning rate 0.001 falling to 1e-05 (counts"),
        (20, "learning rate 0.001 at the end of the warm-up of 20 steps, and never falling (counts"),
    ],
)
def test_a_rate_that_only_warms_up_is_not_said_to_fall(steps: int, words: str) -> None:
    recipe = load_recipe("quickstart_image", [f"schedule.steps={steps}"], "pretrain")
    assert isinstance(recipe, TrainingRecipe)
    cluster: Any = SimpleNamespace(world=1)
    loader: Any = SimpleNamespace(steps_per_epoch=2, clips_in_manifest=160)
    line = describe_batches(recipe, cluster, loader)
    assert words in line and line.endswith(f"; {steps} steps")
