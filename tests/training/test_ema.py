"""The moving average on one process without ZeRO; tests/distributed has every stage under the launcher."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import full_weights


class _Engine:
    """DeepSpeed's engine at stage 0: torch's optimizer over the parameters themselves."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.module.parameters())


@pytest.fixture
def engine() -> _Engine:
    torch.manual_seed(0)
    return _Engine()


def move(engine: _Engine) -> torch.Tensor:
    with torch.no_grad():
        engine.module.weight += 1
    return engine.module.weight.detach().clone()


def test_average_of_applied_steps_only(engine: _Engine) -> None:
    expected = engine.module.weight.detach().clone()
    ema = Ema(engine, 0.75)
    for applied in (True, False, True):
        weight = move(engine)
        ema.update(torch.tensor(float(not applied)))
        if applied:
            expected = 0.75 * expected + 0.25 * weight
    now = engine.module.weight.detach().clone()
    torch.testing.assert_close(ema.full_weights(Cluster(0, 1, torch.device("cpu")), full_weights)["weight"], expected)
    with ema.in_place_of_weights():
        torch.testing.assert_close(engine.module.weight, expected)
    assert engine.module.weight.equal(now), "the weights themselves are untouched, to the bit"


def test_without_a_decay_there_is_nothing(engine: _Engine) -> None:
    ema = Ema(engine, None)
    weight = move(engine)
    ema.update(torch.tensor(0.0))
    assert not ema.active and ema.averages == []
    with ema.in_place_of_weights():
        assert engine.module.weight.equal(weight)
