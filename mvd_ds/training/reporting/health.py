"""The search for the process that holds up the others, by the time that each takes by itself.

The wall time of a step says nothing: processes wait for each other in every collective, so all have the same. What a
process takes by itself is measured instead: the wait for its loader, and the forward pass of one block in the middle of
every network. DeepSpeed gathers a sharded block's weights before and releases them after, so no collective is inside; on
a GPU two events around the block see the device, not the host. A block's seconds times the number of blocks, three times
where it trains (forward, and twice as much in backward), stand for the computation. Embeddings, losses, optimizer and
recomputation are left out: the numbers compare processes, they are not the time of a step.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections import deque
from typing import Any

import torch
from torch import nn

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say

WINDOW = 5
"""Number of log steps over which a rank must be slow to be named: their median counts, so two blips are no news."""
KEPT_CALLS = 256
"""Largest number of a block's calls that are timed between two log steps."""


class RankHealth:
    """A comparison of the ranks by their own time, gathered once a log step, that names the slow ones.

    CPU processes of one host share its cores, and whichever the system lets wait is slow for a while: none of them is named.
    """

    def __init__(self, cluster: Cluster, slow_ratio: float) -> None:
        """Prepare the comparison. Collective.

        Args:
            cluster: the processes of the run.
            slow_ratio: own time over that of the median rank from which on a rank is named.
        """
        self.cluster, self.slow_ratio = cluster, slow_ratio
        self.timers: list[_BlockTimer] = []
        self.hosts: list[str] = cluster.gather(socket.gethostname())
        self.names_ranks = cluster.device.type == "cuda" or len(set(self.hosts)) > 1
        self.ratios: list[deque[float]] = [deque(maxlen=WINDOW) for _ in range(cluster.world)]
        self.slow: set[int] = set()
        self.warm = False

    def watch(self, *networks: Any) -> None:
        """Time the middle block of every stack of blocks in ``networks``; call it after DeepSpeed has placed its hooks."""
        if self.cluster.world == 1:
            return
        for network in networks:
            for stack in _stacks(network):
                block = stack[len(stack) // 2]
                trains = any(parameter.requires_grad for parameter in block.parameters())
                self.timers.append(_BlockTimer(block, len(stack) * (3 if trains else 1), self.cluster.device))

    def tell(self, steps: int, waited_seconds: float) -> dict[str, float]:
        """Return metrics of the last ``steps``, in which this rank waited ``waited_seconds`` for its loader. Collective."""
        if self.cluster.world == 1:
            return {}
        mine = (waited_seconds / steps, sum(timer.read() for timer in self.timers) / steps)
        ranks = self.cluster.gather(mine)
        own = [waited + computed for waited, computed in ranks]
        # The lower of two middles: of two ranks the faster one is the measure.
        median = max(statistics.median_low(own), 1e-9)
        # The first reading holds compilation, caches and the start of the loaders.
        if self.warm and self.names_ranks:
            self._name_slow(own, median, ranks)
        self.warm = True
        return {
            "health/own_seconds_max": max(own),
            "health/own_seconds_median": median,
            "health/max_over_median": max(own) / median,
            "health/slowest_rank": float(self.cluster.first + own.index(max(own))),
            "health/slow_ranks": float(len(self.slow)),
            "health/loader_seconds_max": max(waited for waited, _ in ranks),
        }

    def _name_slow(self, own: list[float], median: float, ranks: list[tuple[float, float]]) -> None:
        """Say which ranks have become slow, and which are no longer."""
        for seconds, ratios in zip(own, self.ratios, strict=True):
            ratios.append(seconds / median)
        slow = {
            rank
            for rank, ratios in enumerate(self.ratios)
            if len(ratios) == WINDOW and statistics.median(ratios) > self.slow_ratio
        }
        usual = [statistics.median_low(column) for column in zip(*ranks, strict=True)]
        for rank in sorted(slow ^ self.slow) if self.cluster.is_main else []:
            who = f"rank {self.cluster.first + rank} on {self.hosts[rank]}"
            if rank not in slow:
                say(f"{who} is as fast as the others again")
                continue
            waited, computed = ranks[rank]
            say(
                f"{who} is slow: {statistics.median(self.ratios[rank]):.2f} times the median rank over {WINDOW} log steps; "
                f"a step it waits {waited:.3f} s for its loader (median {usual[0]:.3f}) and computes {computed:.3f} s "
                f"(median {usual[1]:.3f}); `python -m mvd_ds doctor` examines hosts"
            )
        self.slow = slow


class _BlockTimer:
    """A timer of the forward passes of ``block``, whose seconds count ``weight`` times."""

    def __init__(self, block: nn.Module, weight: int, device: torch.device) -> None:
        self.weight, self.on_gpu = weight, device.type == "cuda"
        self.spans: list[tuple[Any, Any]] = []
        self.started: Any = None
        self.calls = 0
        # After DeepSpeed's own hook, which gathers; and before the one that releases.
        block.register_forward_pre_hook(self._before)
        block.register_forward_hook(self._after, prepend=True)

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _before(self, module: nn.Module, inputs: Any) -> None:
        # Events of a CUDA graph that is being recorded have no time.
        is_recorded = self.on_gpu and torch.cuda.is_current_stream_capturing()
        self.started = self._mark() if len(self.spans) < KEPT_CALLS and not is_recorded else None

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.calls += 1
        # A recomputation under activation checkpointing may end in the middle, without coming here.
        if self.started is not None:
            self.spans.append((self.started, self._mark()))
            self.started = None

    def read(self) -> float:
        """Return the weighted seconds since the last reading. On a GPU the caller has waited for the device."""
        if not self.spans:
            return 0.0
        if self.on_gpu:
            seconds = sum(start.elapsed_time(end) for start, end in self.spans) / 1000
        else:
            seconds = sum(end - start for start, end in self.spans)
        seconds *= self.weight * self.calls / len(self.spans)
        self.spans, self.calls = [], 0
        return seconds


def _stacks(network: nn.Module) -> list[list[nn.Module]]:
    """Return every sequence of transformer blocks, ours and timm's."""
    lists = [list(module) for module in network.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    return [blocks for blocks in lists if blocks and all(type(block).__name__ == "Block" for block in blocks)]
