"""Slow ranks: named after a window, once, by name and cause; blips and waiting are no news."""

from __future__ import annotations

import time
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mvd_ds.models.layers import Block
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.reporting import health
from mvd_ds.training.reporting.health import WINDOW, RankHealth


class _Ranks(Cluster):
    """Rank 0 of three; what the others say is ``others``."""

    others: list[Any]

    def gather(self, value: Any) -> list[Any]:
        return [f"node{rank}" for rank in range(3)] if isinstance(value, str) else [value, *self.others]


@pytest.fixture
def ranks() -> _Ranks:
    return _Ranks(0, 3, torch.device("cpu"))


def _tell(found: RankHealth, ranks: _Ranks, waited: float, times: int = 1) -> list[dict[str, float]]:
    """``times`` log steps of ten steps in which rank 0 waits 0.1 s, rank 1 ``waited`` s and rank 2 0.11 s a step."""
    object.__setattr__(ranks, "others", [(waited, 0.0), (0.11, 0.0)])
    return [found.tell(10, 1.0) for _ in range(times)]


def test_a_slow_rank_is_named_once_and_its_recovery_too(ranks: _Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    found = RankHealth(ranks, slow_ratio=1.3)
    first, *_ = _tell(found, ranks, 0.2, times=WINDOW)
    assert capsys.readouterr().out == "", "the first reading does not count, and the window is not full"
    assert first["health/max_over_median"] == pytest.approx(0.2 / 0.11) and first["health/slowest_rank"] == 1
    values = _tell(found, ranks, 0.2, times=3)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("rank 1 on node1 is slow: 1.82 times the median rank over 5 log steps")
    assert "waits 0.200 s for its loader (median 0.110)" in said and values[-1]["health/slow_ranks"] == 1
    _tell(found, ranks, 0.1, times=WINDOW)
    assert capsys.readouterr().out == "rank 1 on node1 is as fast as the others again\n"


def test_processes_that_share_the_cores_of_one_host_are_not_named(
    ranks: _Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Ranks, "gather", lambda self, value: ["node0"] * 3 if isinstance(value, str) else [value, *self.others])
    found = RankHealth(ranks, slow_ratio=1.3)
    values = _tell(found, ranks, 0.2, times=2 * WINDOW)
    assert values[-1]["health/slow_ranks"] == 0 and values[-1]["health/slowest_rank"] == 1
    assert capsys.readouterr().out == ""


def test_two_blips_are_no_news(ranks: _Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    found = RankHealth(ranks, slow_ratio=1.3)
    for waited in (0.1, 0.1, 5.0, 0.1, 5.0, 0.1, 0.1):
        values = _tell(found, ranks, waited)[0]
        assert values["health/slow_ranks"] == 0
    assert capsys.readouterr().out == ""


def test_one_process_has_nobody_to_compare_with() -> None:
    found = RankHealth(Cluster(0, 1, torch.device("cpu")), slow_ratio=1.3)
    found.watch(nn.Sequential(Block(16, 2, 4.0, "full")))
    assert found.tell(10, 1.0) == {} and not found.timers


def test_the_middle_block_stands_for_all(ranks: _Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=0)
    frozen = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=0).requires_grad_(False)
    found = RankHealth(ranks, slow_ratio=1.3)
    found.watch(network, frozen)
    for model in (network, frozen):
        for place, block in enumerate(model.blocks):
            block.register_forward_hook(lambda *_, place=place: now.__setitem__(0, now[0] + 10.0**place))
    for model in (network, frozen):
        # The clock moves within the middle block alone.
        model.blocks[2].attn.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 0.5))
        model(torch.zeros(1, 3, 32, 32))
        model(torch.zeros(1, 3, 32, 32))
    object.__setattr__(ranks, "others", [(0.0, 1.0), (0.0, 1.0)])
    values = found.tell(1, 0.0)
    # Two calls of half a second, four blocks: once for the frozen network, three times for the other.
    assert values["health/own_seconds_max"] == pytest.approx(2 * 0.5 * 4 * (3 + 1))


def test_many_calls_between_two_log_steps_are_sampled(ranks: _Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEPT_CALLS", 3)
    found = RankHealth(ranks, slow_ratio=1.3)

    class Block(nn.Identity):
        """Any block."""

    network = nn.Sequential(Block())
    found.watch(network)
    for _ in range(12):
        network(torch.zeros(1))
    timer = found.timers[0]
    assert (len(timer.spans), timer.calls) == (3, 12)
    whole = sum(end - start for start, end in timer.spans)
    assert timer.read() == pytest.approx(whole * 12 / 3) and timer.read() == 0.0
