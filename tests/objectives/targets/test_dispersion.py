"""Angles and dispersions in closed form, their gradients, and the same statistics however a step is split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.objectives.targets.dispersion import AngularDispersion, squared_angle


def on_circle(degrees: list[float]) -> Tensor:
    """Vectors of unlike lengths at these angles in the plane."""
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    lengths = torch.arange(1, len(degrees) + 1, dtype=torch.float64)[:, None]
    return lengths * torch.stack((radians.cos(), radians.sin()), dim=1)


def test_angles_in_the_plane() -> None:
    """Small angles keep their digits, which the arc cosine of fp32 would lose."""
    degrees = [0.0, 0.01, 1.0, 60.0, 90.0, 179.0, 180.0]
    found = squared_angle(on_circle(degrees), torch.tensor([2.0, 0.0])).sqrt().rad2deg()
    torch.testing.assert_close(found, torch.tensor(degrees), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0])
def test_gradient_is_finite_and_turns_towards_the_target(degrees: float) -> None:
    """On the unit circle the gradient of angle^2 is 2 * angle along the tangent."""
    vector = on_circle([degrees]).float().requires_grad_()
    squared_angle(vector, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert vector.grad is not None and torch.isfinite(vector.grad).all()
    if degrees == 30.0:
        angle = math.radians(degrees)
        expected = 2 * angle * torch.tensor([[-math.sin(angle), math.cos(angle)]])
        torch.testing.assert_close(vector.grad, expected)


def test_dispersion_of_two_directions() -> None:
    """Vectors at +-40 degrees are 40 degrees from their mean; the first update has the chords, the second the angles."""
    state = AngularDispersion(2, momentum=1.0)
    for expected in (2 * (1 - math.cos(math.radians(40))), math.radians(40) ** 2):
        state.observe(on_circle([40.0, -40.0]))
        state.update(lambda sums: sums)
        assert state.dispersion.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(state.direction, torch.tensor([math.cos(math.radians(40)), 0.0]))


def test_statistics_follow_the_recurrence_and_no_layout_shows() -> None:
    """Against NumPy; two ranks with two micro batches each give what one batch gives. A step that saw nothing moves nothing."""
    steps = torch.randn(4, 8, 5, generator=torch.Generator().manual_seed(0)) + 1
    whole, halves = AngularDispersion(5, 0.1), [AngularDispersion(5, 0.1) for _ in range(2)]
    mean, spread = np.zeros(5), 1.0
    for number, vectors in enumerate(steps):
        whole.observe(vectors)
        whole.update(lambda sums: sums)
        for rank, state in enumerate(halves):
            for micro in vectors[4 * rank :][:4].split(2):
                state.observe(micro)
        total = halves[0].sums + halves[1].sums
        for state in halves:
            state.update(lambda _, total=total: total.clone())
        unit = vectors.double().numpy()
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        if number == 0:
            mean, spread = unit.mean(0), 2 * (1 - np.linalg.norm(unit.mean(0)))
            continue
        angles = np.arccos(unit @ mean / np.linalg.norm(mean))
        mean, spread = 0.9 * mean + 0.1 * unit.mean(0), 0.9 * spread + 0.1 * (angles**2).mean()
    whole.update(lambda sums: sums)
    for state in (whole, *halves):
        np.testing.assert_allclose(state.direction.numpy(), mean, rtol=1e-5)
        assert state.dispersion.item() == pytest.approx(spread, rel=1e-5)
        assert state.updates == len(steps)
