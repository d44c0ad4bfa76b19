"""Centres and temperatures of prototypes against recurrences in NumPy over five steps, however a step is split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mvd_ds.config import PrototypeSettings
from mvd_ds.objectives.centres import Centres
from mvd_ds.objectives.moving_statistics import update_statistics

STEPS, OUTPUTS = 5, 6
ONE = torch.ones(())


def logits(step: int, rows: int = 8) -> torch.Tensor:
    """Teacher's logits (rows, 3 patches and a class token, OUTPUTS)."""
    return 0.1 * torch.randn(rows, 4, OUTPUTS, generator=torch.Generator().manual_seed(step))


def settings(**changes: Any) -> PrototypeSettings:
    return PrototypeSettings.model_validate({"outputs": OUTPUTS, "warmup_steps": 3} | changes)


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
@pytest.mark.parametrize("parts", [1, 4])
def test_five_steps_are_those_of_numpy_however_a_step_is_split(centring: str, parts: int) -> None:
    """Micro batches and ranks are the same sums: of four parts each is collected by itself."""
    centres = Centres(settings(centring=centring))
    centre, done = np.zeros((2, OUTPUTS)), 0
    for step in range(STEPS):
        temperature = 0.04 + 0.03 * min(done / 3, 1)
        assert centres.temperature.item() == pytest.approx(temperature)
        whole = logits(step).numpy().astype(np.float64)
        given = [softmax((whole[:, :-1] - centre[0]) / temperature), softmax((whole[:, -1] - centre[1]) / temperature)]
        for part in logits(step).chunk(parts):
            assigned = torch.cat((centres.assign(part[:, :-1], 0), centres.assign(part[:, -1:], 1)), dim=1)
            centres.observe(part, assigned)
        skipped = step == 1
        update_statistics([centres], lambda sums: sums, ONE * skipped, 0.0)
        for row, (own, source) in enumerate(zip(given, (whole[:, :-1], whole[:, -1]), strict=True)) if not skipped else ():
            if centring == "ema":
                centre[row] = 0.9 * centre[row] + 0.1 * source.reshape(-1, OUTPUTS).mean(0)
            else:
                centre[row] += 0.1 * temperature * np.log(OUTPUTS * own.reshape(-1, OUTPUTS).mean(0))
        done += not skipped
        np.testing.assert_allclose(centres.centre.numpy(), centre, rtol=1e-5, atol=1e-7)
    assert int(centres.steps) == STEPS - 1 and abs(centre).max() > 0.001


def test_without_momentum_steps_on_one_batch_are_iterations_of_sinkhorn_and_knopp() -> None:
    centres = Centres(settings(centring="sinkhorn", centre_momentum=0.0, warmup_steps=0, teacher_temperature=(0.5, 0.5)))
    given = logits(0, rows=5)
    for _ in range(STEPS):
        assigned = torch.cat((centres.assign(given[:, :-1], 0), centres.assign(given[:, -1:], 1)), dim=1)
        centres.observe(given, assigned)
        update_statistics([centres], lambda sums: sums, 0 * ONE, 0.0)
    matrix = np.exp(given[:, :-1].reshape(-1, OUTPUTS).numpy().astype(np.float64) / 0.5)
    for _ in range(STEPS):
        matrix /= matrix.sum(1, keepdims=True)
        matrix /= OUTPUTS * matrix.mean(0)
    matrix /= matrix.sum(1, keepdims=True)
    np.testing.assert_allclose(centres.assign(given[:, :-1], 0).reshape(-1, OUTPUTS).numpy(), matrix, rtol=1e-4)
    assert centres.assign(given[:, :-1], 0).mean(dim=(0, 1)).numpy() == pytest.approx(1 / OUTPUTS, rel=0.05)


def test_centres_and_steps_are_the_state_that_checkpoints_keep() -> None:
    assert set(Centres(settings()).state_dict()) == {"centre", "steps"}
