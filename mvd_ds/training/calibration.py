"""The calibration before the first step: where the statistics of targets begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from mvd_ds.objectives.moving_statistics import load_statistics, settle_statistics, statistics_state
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.protocols import Objective


@torch.no_grad()
def calibrate(objective: Objective, batches: Callable[[], Iterable[Any]], cluster: Cluster) -> None:
    """Estimate the statistics of an objective's targets over some clips, which are read once for each round. Collective.

    Args:
        objective: its ``statistics`` say in which rounds they take part; without any, nothing is read.
        batches: reads this rank's micro batches of the calibration clips from the first on.
        cluster: the processes of the run.

    Raises:
        ConfigError: on every rank, if the clips are too few for an estimate.
    """
    parts = list(objective.statistics.values())
    for number in sorted({number for part in parts for number in part.rounds}):
        taking = [part for part in parts if number in part.rounds]
        for part in taking:
            part.begin(number)
        for batch in batches():
            objective.observe(batch)
        settle_statistics(taking, cluster.sum)
        for part in parts:
            # What had its round before has collected here as in training, and the first step begins with nothing.
            part.sums.zero_()
    if any(part.rounds for part in parts):
        # Libraries of other processors may round an eigenvector otherwise.
        load_statistics(objective.statistics, cluster.broadcast(statistics_state(objective.statistics)), "rank 0")
