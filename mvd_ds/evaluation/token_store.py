"""Frozen features of clips on any number of processes: kept in memory where they fit, computed again otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Frozen = Any
"""A NamedTuple of tensors (B, ...) or None, with ``seen(block, view)``: what a head takes of it."""
Maker = Callable[[Sequence[Sequence[int]]], Iterable[Frozen]]
"""Groups of clips -> the features of each group, in order."""


class Share(NamedTuple):
    """This process among those that compute features together; by default it is alone."""

    rank: int = 0
    world: int = 1
    total: Callable[[Tensor], Tensor] = lambda values: values
    """Sum of a tensor over the processes. Collective."""
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    """A value of every process, in order. Collective."""


class FrozenStore:
    """The features of clips: processes compute groups in turn, and every one of them gets every group.

    Features that are kept are computed in groups of neighbours, whatever the order in which they are asked for, and others in
    the groups that are asked for: so neither the number of processes nor an interruption changes a bit of them.

    Args:
        make: function that computes features, group by group.
        clips: number of clips.
        keep: whether features stay in host memory, each on the process that computed it.
        size: largest number of clips in a group.
        device: where features are wanted.
        share: this process among the others.
    """

    def __init__(
        self,
        make: Maker,
        clips: int,
        keep: bool,
        size: int,
        device: torch.device,
        share: Share = Share(),  # noqa: B008 - a NamedTuple, never written to
    ) -> None:
        self._make, self._clips, self._keep, self.size = make, clips, keep, size
        self._device, self._share = device, share
        self._kept: dict[int, Frozen] = {}
        self._is_filled = False
        self._like: Any = None

    def batches(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Frozen]]:
        """Yield (clips, features) of each group, on every process. Collective, group by group."""
        if not self._keep:
            yield from self._computed(groups)
            return
        if not self._is_filled:
            self._fill()
        for group in groups:
            rows = [(place, self._kept[clip]) for place, clip in enumerate(group) if clip in self._kept]
            if self._share.world == 1:
                yield group, self._on_device(_stack([features for _, features in rows]))
            else:
                yield group, self._exchanged(rows, len(group))

    def forget(self) -> None:
        """Give up the features that are kept."""
        self._kept, self._is_filled = {}, False

    def _fill(self) -> None:
        """Compute this process's part of all features."""
        for group, features in self._own(in_groups(range(self._clips), self.size)):
            for row, clip in enumerate(group):
                self._kept[clip] = type(features)(*(part if part is None else part[row].cpu() for part in features))
        self._learn_shapes(next(iter(self._kept.values()), None))
        self._is_filled = True

    def _own(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Frozen]]:
        mine = groups[self._share.rank :: self._share.world]
        yield from zip(mine, self._make(mine), strict=True)

    def _computed(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Frozen]]:
        """Compute as many groups at once as there are processes, and hand them on one after another."""
        own, world = self._own(groups), self._share.world
        for first in range(0, len(groups), world):
            turn = groups[first : first + world]
            features = next(own)[1] if self._share.rank < len(turn) else None
            if world == 1:
                yield turn[0], self._on_device(features)
                continue
            if first == 0:
                self._learn_shapes(None if features is None else _row(features, 0))
            for owner, group in enumerate(turn):
                rows = range(len(group)) if owner == self._share.rank else ()
                yield group, self._exchanged([(row, _row(features, row)) for row in rows], len(group))

    def _learn_shapes(self, row: Frozen) -> None:
        """Learn of the others what the features of a clip look like: a process may have none."""
        told = None if row is None else [None if part is None else (tuple(part.shape), part.dtype) for part in row]
        self._like = next(one for one in self._share.gather(told and (type(row), told)) if one is not None)

    def _exchanged(self, rows: Sequence[tuple[int, Frozen]], count: int) -> Frozen:
        """Return the features of a group of which every process has some rows: bytes of one are added to zeros of others."""
        kind, shapes = self._like
        parts: list[Tensor | None] = []
        for place, described in enumerate(shapes):
            if described is None:
                parts.append(None)
                continue
            shape, dtype = described
            whole = torch.zeros((count, *shape), dtype=dtype, device=self._device)
            for row, features in rows:
                whole[row] = features[place].to(self._device)
            parts.append(self._share.total(whole.view(torch.uint8)).view(dtype))
        return kind(*parts)

    def _on_device(self, features: Frozen) -> Frozen:
        return type(features)(*(part if part is None else part.to(self._device) for part in features))


def in_groups(clips: Sequence[int], size: int) -> list[Sequence[int]]:
    """Return ``clips`` in groups of ``size``; the last may be smaller."""
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def _row(features: Frozen, row: int) -> Frozen:
    return type(features)(*(part if part is None else part[row] for part in features))


def _stack(rows: list[Frozen]) -> Frozen:
    return type(rows[0])(*(None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True)))
