"""The calibration: each kind of statistics in its round, over the clips once a round, and nothing left for the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.objectives.balance import MeanTarget
from mvd_ds.objectives.moving_statistics import Statistics, summaries
from mvd_ds.objectives.standardisers import STANDARDISERS
from mvd_ds.objectives.terms import Term
from mvd_ds.training.calibration import calibrate
from mvd_ds.training.cluster import Cluster

ALONE = Cluster(0, 1, torch.device("cpu"))


class Features:
    """An objective whose batches are raw features, as far as the calibration knows it."""

    def __init__(self, kind: str, width: int = 6) -> None:
        self.standardiser = STANDARDISERS[kind](width, "video")
        self.balance = MeanTarget(Term("l2", 1.0), width)
        self.statistics: dict[str, Statistics] = {"video.standardise": self.standardiser, "video.balance": self.balance}
        self.reads = 0

    def observe(self, batch: Any) -> None:
        standardised = self.standardiser(batch)
        self.standardiser.observe(batch, standardised)
        self.balance.observe(standardised)
        self.reads += 1


def _batches(tokens: int = 50) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [9 * torch.randn(2, tokens, 6, generator=generator) + 4 for _ in range(3)]


@pytest.mark.parametrize("kind", ["running", "phi_s"])
def test_targets_are_standardised_before_their_mean_is_estimated(kind: str) -> None:
    objective = Features(kind)
    calibrate(objective, _batches, ALONE)
    made = torch.cat([objective.standardiser(batch) for batch in _batches()]).flatten(0, 1)
    assert torch.allclose(made.mean(dim=0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(made.var(dim=0, correction=0), torch.ones(6), rtol=1e-4)
    assert objective.balance.loss.item() == pytest.approx(1.0, rel=1e-4)
    assert objective.reads == 3 * 3
    assert not any(part.sums.any() for part in objective.statistics.values()), "the first step begins with nothing"


def test_metric_writers_are_told_the_scale_of_each_target() -> None:
    objective = Features("phi_s")
    calibrate(objective, _batches, ALONE)
    told = summaries(objective.statistics)
    assert told["statistics/video_standardise_deviation"] == pytest.approx(9, rel=0.1)
    assert told["statistics/video_standardise_mean"] == pytest.approx(4, rel=0.2)
    assert told["statistics/video_balance_mean_target_loss"] == pytest.approx(1, rel=1e-3)


def test_without_statistics_nothing_is_read() -> None:
    objective = Features("none")
    objective.statistics = {}
    calibrate(objective, lambda: pytest.fail("read"), ALONE)


def test_clips_that_are_too_few_or_not_finite_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"target video: .*have 6 tokens; raise calibration_clips"):
        calibrate(Features("phi_s"), lambda: _batches(1), ALONE)
    with pytest.raises(ConfigError, match="the first clips give targets that are not finite"):
        calibrate(Features("running"), lambda: [torch.full((2, 5, 6), torch.inf)], ALONE)
