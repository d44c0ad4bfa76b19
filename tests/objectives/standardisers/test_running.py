"""Running statistics against a recurrence in numpy, whatever the micro batches, and unmoved by skipped steps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.objectives.moving_statistics import settle_statistics, update_statistics
from mvd_ds.objectives.standardisers.running import RunningStandardiser

STEPS, WIDTH = 6, 5
OPEN, SHUT = torch.zeros(()), torch.ones(())


def _step(number: int) -> Tensor:
    """Raw features (4, 30, 5) whose scale and mean drift, with a channel whose mean is 1,000 deviations."""
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(4, 30, WIDTH, generator=generator) * (1 + number) + number
    features[..., 0] += 1000
    return features


def _begun(clips: Tensor) -> RunningStandardiser:
    standardiser = RunningStandardiser(WIDTH, "image")
    standardiser.begin(0)
    standardiser.observe(clips, clips)
    settle_statistics([standardiser], lambda sums: sums)
    return standardiser


def _numpy_recurrence() -> list[tuple[np.ndarray, np.ndarray]]:
    """(mean, deviation) before every step and after the last, in double precision from raw features."""
    tokens = _step(0).double().numpy().reshape(-1, WIDTH)
    mean, deviation = tokens.mean(axis=0), tokens.std(axis=0)
    states = [(mean, deviation)]
    for number in range(STEPS):
        momentum = 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * number / STEPS))
        tokens = _step(number).double().numpy().reshape(-1, WIDTH)
        mean = (1 - momentum) * mean + momentum * tokens.mean(axis=0)
        deviation = (1 - momentum) * deviation + momentum * tokens.std(axis=0)
        states.append((mean, deviation))
    return states


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_statistics_are_those_of_the_recurrence(micro_batches: int) -> None:
    standardiser, expected = _begun(_step(0)), _numpy_recurrence()
    for number in range(STEPS):
        mean, deviation = expected[number]
        standardised = standardiser(_step(number))
        assert np.allclose(standardised, (_step(number).numpy() - mean) / deviation, atol=2e-3)
        for part in _step(number).chunk(micro_batches):
            standardiser.observe(part, standardiser(part))
        update_statistics([standardiser], lambda sums: sums, OPEN, number / STEPS)
        assert not standardiser.sums.any()
    assert np.allclose(standardiser.mean, expected[-1][0], rtol=1e-5)
    assert np.allclose(standardiser.deviation, expected[-1][1], rtol=1e-3)


def test_two_ranks_that_add_their_sums_have_the_statistics_of_one() -> None:
    one, ranks = _begun(_step(0)), [_begun(_step(0)) for _ in range(2)]
    one.observe(_step(1), one(_step(1)))
    for rank, part in zip(ranks, _step(1).chunk(2), strict=True):
        rank.observe(part, rank(part))
    both = ranks[0].sums + ranks[1].sums
    update_statistics([one], lambda sums: sums, OPEN, 0.5)
    for rank in ranks:
        update_statistics([rank], lambda _: both, OPEN, 0.5)
    assert torch.equal(ranks[0].mean, ranks[1].mean) and torch.equal(ranks[0].deviation, ranks[1].deviation)
    assert torch.allclose(one.mean, ranks[0].mean) and torch.allclose(one.deviation, ranks[0].deviation)


def test_a_skipped_step_moves_nothing_even_where_it_is_not_finite() -> None:
    standardiser = _begun(_step(0))
    before = {name: value.clone() for name, value in standardiser.state_dict().items()}
    bad = _step(1)
    bad[0, 0, 0] = math.nan
    standardiser.observe(bad, standardiser(bad))
    update_statistics([standardiser], lambda sums: sums, SHUT, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in standardiser.state_dict().items())
    assert not standardiser.sums.any()


def test_the_inverse_is_exact() -> None:
    standardiser = _begun(_step(3))
    assert torch.allclose(standardiser.inverse(standardiser(_step(3))), _step(3), rtol=1e-6, atol=1e-5)
