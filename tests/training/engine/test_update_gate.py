"""The gate before torch's optimizer; tests/distributed/engine_states.py stands it before DeepSpeed's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mvd_ds.training.engine.update_gate import UpdateGate
from plain_engine import StageZero


class Engine(StageZero):
    """One linear layer."""

    def __init__(self, clipping: float = 0.0) -> None:
        torch.manual_seed(0)
        module = torch.nn.Linear(37, 5)
        super().__init__(module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True), clipping)

    def train(self, seed: int, factor: float = 1.0) -> None:
        clips = torch.randn(4, 37, generator=torch.Generator().manual_seed(seed))
        (factor * self.module(clips).square().mean()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> list[Tensor]:
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value.detach().clone() for value in (*self.module.parameters(), *moments)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("clipping", [0.0, 0.5])
def test_a_run_with_bad_steps_is_one_without_them(bad: float, clipping: float) -> None:
    """To the bit; 1e30 has finite gradients whose norm is not."""
    engine, other = Engine(clipping), Engine(clipping)
    gate, _ = UpdateGate(engine), UpdateGate(other)
    for step in range(6):
        if step in (0, 3):
            before = copy.deepcopy(engine.state())
            engine.train(90 + step, bad)
            late = gate.verdict()
            engine.train(80 + step)
            assert not late.passed() and not gate.verdict().passed()
            assert step == 0 or all(map(torch.equal, engine.state(), before))
            gate.open()
        engine.train(step)
        other.train(step)
        assert gate.verdict().passed()
    assert all(map(torch.equal, engine.state(), other.state()))


def test_gradients_are_clipped_as_torch_does() -> None:
    engine, plain = Engine(0.01), Engine()
    UpdateGate(engine)
    clips = torch.randn(4, 37)
    for one in (engine, plain):
        one.module(clips).square().mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.module.parameters(), 0.01)
    engine.optimizer.step()
    torch.testing.assert_close(engine.module.weight.grad, plain.module.weight.grad)
    torch.testing.assert_close(engine.optimizer._global_grad_norm, norm)  # type: ignore[attr-defined]
