"""The processes of a run: who they are, how they agree, and how they fail together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from mvd_ds.config import ConfigError
from mvd_ds.training.ending import abort


@dataclass(frozen=True)
class Cluster:
    """One process among ``world``; its collectives work for a single process too."""

    rank: int
    world: int
    device: torch.device
    hosts: Any = None
    """Process group of the reductions between hosts' memories (None: the default one)."""
    first: int = 0
    """Rank of the run that is rank 0 here; another than 0 where a student owns ranks."""

    @property
    def number(self) -> int:
        """Return the rank of this process as the launcher counts it."""
        return self.first + self.rank

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Return the ``value`` of every rank, in rank order, on every rank. Collective."""
        if not dist.is_initialized():
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's ``value`` on every rank. Collective."""
        if not dist.is_initialized():
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` holds on any rank, without waiting for the device. Collective."""
        if not dist.is_initialized():
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.hosts)
        return bool(value)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the element-wise mean of ``values`` over the ranks, fp32. Collective."""
        values = values.float().clone()
        if dist.is_initialized():
            dist.all_reduce(values)
        return values / self.world

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the element-wise sum of ``values`` over the ranks, in their own type. Collective."""
        values = values.clone()
        if dist.is_initialized():
            dist.all_reduce(values)
        return values

    def gather_tensor(self, value: torch.Tensor) -> list[torch.Tensor]:
        """Return the ``value`` of every rank, in rank order; it has one shape on all of them. Collective."""
        if not dist.is_initialized():
            return [value]
        values = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(values, value.contiguous())
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a part without collectives on every rank; if it fails on any, all ranks raise the same ConfigError.

        Raises:
            ConfigError: with every distinct message, on all ranks.
        """
        fault: str | None = None
        try:
            yield
        except (ConfigError, OSError) as error:
            fault = str(error)
        faults = [text for text in dict.fromkeys(self.gather(fault)) if text]
        if faults:
            raise ConfigError("\n".join(faults))


def launched_rank() -> int:
    """Return the rank that the launcher's environment gives; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def local_processes() -> int:
    """Return the number of this run's processes on this host, as the launcher gives it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def fail_alone(cluster: Cluster, message: str) -> NoReturn:
    """End this process at once with one line; see ``ending.abort``."""
    abort(f"rank {cluster.rank} of {cluster.world}: {message}")
