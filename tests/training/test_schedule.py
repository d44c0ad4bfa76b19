"""The schedule against numbers worked out by hand and an independent formula."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.training.schedule import Schedule, build_schedule


def test_published_small_student_over_kinetics() -> None:
    """240,436 clips in batches of 1024: 234 steps an epoch, cosine over 401 epochs, warm-up 40 from 0."""
    recipe = load_recipe("mvd_small_from_base")
    assert isinstance(recipe, TrainingRecipe)
    steps = 240436 // 1024
    schedule = build_schedule(recipe, steps)
    warmup, total = 40 * steps, 401 * steps
    expected = np.concatenate(
        [
            np.linspace(0, 6e-4, warmup),
            [4e-4 + 0.5 * (6e-4 - 4e-4) * (1 + np.cos(np.pi * i / (total - warmup))) for i in range(total - warmup)],
        ]
    )
    assert [schedule(step) for step in range(0, total, 997)] == pytest.approx(expected[::997].tolist(), rel=1e-12)
    assert recipe.schedule.last_step(steps) == 400 * steps


def test_edges() -> None:
    schedule = Schedule(peak=1.0, final=0.1, warmup=5, total=25)
    assert schedule(0) == 0.0
    assert schedule(4) == schedule(5) == 1.0
    assert schedule(15) == pytest.approx(0.55)
    assert schedule(25) == pytest.approx(0.1)
    assert Schedule(peak=1.0, final=0.0, warmup=0, total=10)(0) == 1.0
    assert Schedule(peak=1.0, final=0.0, warmup=1, total=10)(0) == 0.0
