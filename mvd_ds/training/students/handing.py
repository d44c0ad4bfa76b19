"""The way of a micro batch, with what the teachers gave of it, from the process that asked them to those that learn from it.

Micro batches are numbered over the run: on W processes, process r asks the teachers about numbers r, W + r, ... A student on n
processes has, as in a run of its own, process i learn from numbers i, n + i, ... So each travels to one process of each student.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.students.shared import Pass

#: Bytes that travel at a time between two processes.
CHUNK_BYTES = 32 * 2**20


class Owner(NamedTuple):
    """The processes of a student, and the micro batches that it still has to learn from."""

    ranks: range
    first: int
    end: int

    def rank_of(self, number: int) -> int | None:
        """Return the process that learns from micro batch ``number``; None: none has to."""
        return self.ranks[number % len(self.ranks)] if self.first <= number < self.end else None

    def turns(self, number: int, world: int) -> int:
        """Return the turns that all its processes can take once ``world`` micro batches from ``number`` on are handed over."""
        return (number + world) // len(self.ranks) - number // len(self.ranks)


class News(NamedTuple):
    """The state of a process before a hand-over: students that are at their end, and what ends all of them."""

    over: frozenset[str] = frozenset()
    fault: str | None = None


class HandOver:
    """The exchange of one round: every process gives what it has of one micro batch, and gets those that it learns from.

    Args:
        cluster: the processes of the run.
        unseen: views of a clip that no student looks at, which stay where they are.
    """

    def __init__(self, cluster: Cluster, unseen: Iterable[Any] = ()) -> None:
        self.cluster, self.unseen = cluster, frozenset(unseen)

    def news(self, mine: News) -> list[News]:
        """Return what every process says, in rank order. Collective."""
        found: list[Any] = [None] * self.cluster.world
        dist.all_gather_object(found, mine, group=self.cluster.hosts)
        return found

    def __call__(self, first: int, mine: Pass, owners: Iterable[Owner]) -> dict[int, Pass]:
        """Return the passes that this process learns from, by number, in order. Collective.

        Args:
            first: number of the micro batch of process 0.
            mine: the pass over that of this process.
            owners: of all students that learn in this round.
        """
        rank, world = self.cluster.rank, self.cluster.world
        owners = tuple(owners)
        goes = {source: {to for owner in owners if (to := owner.rank_of(first + source)) is not None} for source in range(world)}
        skeleton, tensors = taken_apart(self._slim(mine), self.cluster.device)
        shapes = [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
        headers: list[Any] = [None] * world
        dist.all_gather_object(headers, (skeleton, shapes), group=self.cluster.hosts)
        coming = {
            source: [torch.empty(shape, dtype=dtype, device=self.cluster.device) for dtype, shape in headers[source][1]]
            for source in range(world)
            if source != rank and rank in goes[source]
        }
        sends = [_pieces(dist.isend, tensors, target) for target in sorted(goes[rank] - {rank})]
        receives = [_pieces(dist.irecv, empty, source) for source, empty in coming.items()]
        for wave in zip_longest(*sends, *receives):
            for work in dist.batch_isend_irecv([piece for piece in wave if piece is not None]):
                work.wait()
        found = {first + source: put_together(headers[source][0], filled) for source, filled in coming.items()}
        if rank in goes[rank]:
            found[first + rank] = mine
        return dict(sorted(found.items()))

    def _slim(self, one: Pass) -> Pass:
        """Return a pass without what was needed to make it alone."""
        batch: Any = one.drawn[0]
        views = {view: clip for view, clip in batch.views.items() if view not in self.unseen}
        batch = batch._replace(views=views, cached=None, mask_numbers=None, mask_order=None)
        return one._replace(drawn=(batch, one.drawn[1]))


def _pieces(operation: Any, tensors: list[Tensor], peer: int) -> list[dist.P2POp]:
    """Return what sends tensors to another process, or takes them from there, in pieces of ``CHUNK_BYTES`` at most."""
    flat = [tensor.view(-1).view(torch.uint8) for tensor in tensors if tensor.numel()]
    return [dist.P2POp(operation, piece, peer) for each in flat for piece in each.split(CHUNK_BYTES)]


def taken_apart(value: Any, device: torch.device) -> tuple[bytes, list[Tensor]]:
    """Return the bytes of a value without its tensors on ``device``, and those tensors, each once and contiguous."""
    tensors: dict[int, tuple[int, Tensor, Tensor]] = {}

    class Writer(pickle.Pickler):
        def persistent_id(self, part: Any) -> int | None:
            if not isinstance(part, Tensor) or part.device.type != device.type:
                return None
            # The tensor itself is kept, too: another one could have the number of one that is gone.
            return tensors.setdefault(id(part), (len(tensors), part, part.detach().contiguous()))[0]

    buffer = io.BytesIO()
    Writer(buffer).dump(value)
    return buffer.getvalue(), [contiguous for _, _, contiguous in tensors.values()]


def put_together(skeleton: bytes, tensors: list[Tensor]) -> Any:
    """Return the value that ``taken_apart`` took apart."""

    class Reader(pickle.Unpickler):
        def persistent_load(self, number: int) -> Tensor:
            return tensors[number]

    return Reader(io.BytesIO(skeleton)).load()
