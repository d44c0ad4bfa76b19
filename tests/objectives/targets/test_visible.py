"""Distances to masked tokens against all pairs, weights and warm-up in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mvd_ds.objectives.losses import LOSSES
from mvd_ds.objectives.targets.visible import distance_to_masked, visible_loss, visible_weights, warmed_up


@pytest.mark.parametrize("grid", [(3, 4, 5), (1, 6, 6), (8, 2, 1)])
def test_distances_are_those_of_all_pairs(grid: tuple[int, int, int]) -> None:
    """Every row has masked tokens of its own, one of them a single token in a corner."""
    count = math.prod(grid)
    generator = torch.Generator().manual_seed(0)
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).double()
    for masked_count in (1, 2, count // 2):
        masked = torch.stack([torch.randperm(count, generator=generator)[:masked_count] for _ in range(3)])
        found = distance_to_masked(masked, grid)
        for row in range(3):
            expected = torch.cdist(places, places[masked[row]]).amin(dim=1)
            assert torch.equal(found[row].square().round(), expected.square().round().float())
            torch.testing.assert_close(found[row], expected.float())


def test_weights_of_a_line_of_tokens() -> None:
    """Token 0 of a row of five is masked: the others are 1, 2, 3, 4 away."""
    weights = visible_weights(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0]]), (1, 1, 5))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 2**-0.5, 3**-0.5, 0.5]]))


def test_warm_up_is_nothing_then_linear_then_constant() -> None:
    """The ramp of steps 10 to 20 is half done at 15; without a ramp the whole weight counts from ``full`` on."""
    steps = torch.tensor([0, 10, 15, 20, 1000])
    torch.testing.assert_close(warmed_up(0.5, steps, 10, 20), torch.tensor([0.0, 0.0, 0.25, 0.5, 0.5]))
    torch.testing.assert_close(warmed_up(0.5, steps, 15, 15), torch.tensor([0.0, 0.0, 0.5, 0.5, 0.5]))


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_with_weights_of_one_is_the_loss(loss: str) -> None:
    """A weight of 0 takes a token out, whatever it is."""
    prediction, target = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(visible_loss(loss, prediction, target, torch.ones(2, 3)), LOSSES[loss](prediction, target))
    weights = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = LOSSES[loss](prediction[:1, :1], target[:1, :1]) / 2
    torch.testing.assert_close(visible_loss(loss, prediction, target, weights), expected)
