"""Distances to masked tokens against all pairs, weights and warm-up in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mvd_ds.config import TargetSettings
from mvd_ds.objectives.losses import LOSSES
from mvd_ds.objectives.targets import Places
from mvd_ds.objectives.targets.visible import VisibleLoss, distance_to_masked, visible_weights, warmed_up


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
def test_loss_on_a_line_of_tokens(loss: str) -> None:
    """Token 0 is masked, 1 and 4 are visible: 1 and 1/2 are their weights, and the mean is over both."""
    prediction, target = torch.randn(2, 1, 2, 4, generator=torch.Generator().manual_seed(1))
    places = Places(torch.tensor([[[1, 4]]]), torch.tensor([[[0]]]), torch.tensor(15))
    near, far = (LOSSES[loss](prediction[:, token], target[:, token]) for token in (0, 1))
    for settings, expected in (
        ({"visible_weight": 0.4}, 0.4 * (near + far / 2) / 2),
        ({"visible_weight": 0.4, "visible_distance": False}, 0.4 * (near + far) / 2),
        ({"visible_weight": 0.4, "visible_ramp": (10, 20)}, 0.2 * (near + far / 2) / 2),
    ):
        found = VisibleLoss(TargetSettings(tokens="all", **settings), (1, 1, 5))(loss, prediction, target, places)[0]
        torch.testing.assert_close(found, expected)


def test_two_blocks_have_one_weight_a_token() -> None:
    """(R, V, parts, D): the parts of a token are averaged before they are weighted."""
    prediction, target = torch.randn(2, 1, 2, 3, 4, generator=torch.Generator().manual_seed(2))
    places = Places(torch.tensor([[[1, 4]]]), torch.tensor([[[0]]]))
    found = VisibleLoss(TargetSettings(tokens="all", visible_weight=1.0), (1, 1, 5))("l1", prediction, target, places)[0]
    each = (prediction - target).abs().mean(dim=(0, 2, 3))
    torch.testing.assert_close(found, (each[0] + each[1] / 2) / 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"visible_weight": 0.1}, "visible_weight is for features of tokens all, not for features of masked"),
        ({"tokens": "visible", "visible_ramp": (0, 5)}, "visible_ramp is for features of tokens all, not"),
        ({"tokens": "all", "visible_ramp": (6, 5)}, r"visible_ramp \[6, 5\] ends before it begins"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TargetSettings(**settings)
