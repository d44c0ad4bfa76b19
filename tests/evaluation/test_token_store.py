"""Every process gets the features of every group, whoever computed them, and the same bits whatever their number is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mvd_ds.evaluation.token_store import FrozenStore, Share, in_groups

CLIPS = 11
ROWS = torch.randn(CLIPS, 3, 4, generator=torch.Generator().manual_seed(0))
ROWS[2, 0, 0] = -0.0
CPU = torch.device("cpu")


class Frozen(NamedTuple):
    tokens: Tensor
    others: Tensor | None = None


class Meeting:
    """The collectives of threads that stand for processes."""

    def __init__(self, world: int) -> None:
        self.world, self.values, self.barrier = world, [None] * world, threading.Barrier(world, timeout=20)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found

    def share(self, rank: int) -> Share:
        def total(values: Tensor) -> Tensor:
            return torch.stack(self.gather(rank, values)).sum(0).to(values.dtype)

        return Share(rank, self.world, total, lambda value: self.gather(rank, value))


def seen_by_all(world: int, keep: bool, groups: list[Sequence[int]], dtype: torch.dtype) -> tuple[list[list[Tensor]], list[int]]:
    meeting, computed = Meeting(world), [0] * world
    seen: list[list[Tensor]] = [[] for _ in range(world)]

    def process(rank: int) -> None:
        def make(mine: Sequence[Sequence[int]]) -> Iterator[Frozen]:
            for group in mine:
                computed[rank] += len(group)
                yield Frozen(ROWS[list(group)].to(dtype))

        store = FrozenStore(make, CLIPS, keep, 2, CPU, meeting.share(rank))
        for _ in range(2):
            seen[rank] += [frozen.tokens.clone() for _, frozen in store.batches(groups)]

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, computed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_process_sees_every_group(world: int, keep: bool, dtype: torch.dtype) -> None:
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(1)).tolist()
    groups = in_groups(order, 3)
    seen, computed = seen_by_all(world, keep, groups, dtype)
    for own in seen:
        assert len(own) == 2 * len(groups)
        for group, tokens in zip(groups * 2, own, strict=True):
            expected = ROWS[list(group)].to(dtype)
            assert tokens.dtype == dtype and torch.equal(tokens, expected)
            assert torch.equal(tokens.signbit(), expected.signbit()), "not even the sign of a zero is lost"
    assert sum(computed) == (CLIPS if keep else 2 * CLIPS), "nobody computes what another has"
    assert world == 1 or max(computed) < sum(computed), "and the work is shared"
