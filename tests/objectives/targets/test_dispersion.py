"""Dispersion of directions in closed form, and the same however the calibration clips are split."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvd_ds.config import load_recipe
from mvd_ds.objectives.moving_statistics import settle_statistics
from mvd_ds.objectives.targets.dispersion import AngularDispersion
from mvd_ds.objectives.targets.summary import SummaryTarget


def on_circle(degrees: list[float]) -> Tensor:
    """Vectors of unlike lengths at these angles in the plane."""
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.arange(1.0, len(degrees) + 1)[:, None] * torch.stack((radians.cos(), radians.sin()), dim=1)


def calibrated(*ranks: list[Tensor]) -> AngularDispersion:
    """The state of the first rank after both rounds over the micro batches of all."""
    states = [AngularDispersion(ranks[0][0].shape[1]) for _ in ranks]
    for number in AngularDispersion.rounds:
        for state, batches in zip(states, ranks, strict=True):
            state.begin(number)
            for batch in batches:
                state.observe(batch)
        total = torch.stack([state.sums for state in states]).sum(0)
        for state in states:
            settle_statistics([state], lambda _, total=total: total)
    return states[0]


def test_vectors_at_40_degrees_from_their_mean() -> None:
    """The mean of directions at 10 and 90 degrees is at 50; lengths do not count. Training leaves the state alone."""
    state = calibrated([on_circle([10.0, 90.0])])
    assert state.dispersion.item() == pytest.approx(math.radians(40) ** 2, rel=1e-5)
    state.observe(on_circle([0.0]))
    assert not state.sums.any() and not state.moves


def test_losses_of_a_summary_are_in_units_of_the_dispersion() -> None:
    """So is that of the mean target, which they are shown beside."""
    target = SummaryTarget(load_recipe("mvd_base_from_base", ["teachers.image.more_targets.s.kind=summary"]), "image_s")
    given, predicted = torch.randn(2, 4, 768, generator=torch.Generator().manual_seed(0))
    before = [target.compare(predicted, given), target.trivial_loss(given), target.rows(predicted, given)]
    assert target.dispersion is not None
    target.dispersion.dispersion.fill_(0.25)
    after = [target.compare(predicted, given), target.trivial_loss(given), target.rows(predicted, given)]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, 4 * one)


def test_no_layout_shows() -> None:
    vectors = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) + 1
    whole, split = calibrated([vectors]), calibrated(list(vectors[:4].split(2)), list(vectors[4:].split(1)))
    torch.testing.assert_close(whole.state_dict(), split.state_dict())
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    mean = torch.nn.functional.normalize(unit.mean(0), dim=0)
    assert whole.dispersion.item() == pytest.approx((unit @ mean).arccos().square().mean().item(), rel=1e-5)
