"""A frozen network's forward as one CUDA graph, where replaying it is faster than launching its kernels one by one."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: Share of the time of a forward that a replay must save, copies of input and output included; less is noise.
WORTH_SAVING = 0.02
#: Forwards before recording: compilation, the choice of kernels and the first allocations must be over.
WARM_UP = 3
#: Forwards of either kind that are timed.
TIMED = 5


class GraphedForward:
    """A module's forward that is replayed as a CUDA graph where that pays.

    At the first call the forward is recorded, and both ways are timed. Inputs of other shapes, and inputs while
    ``module`` has new hooks, take the usual way.

    Args:
        module: frozen and whole on one GPU.
        name: name of the network in messages.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.is_decided = False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.output: Tensor | dict[str, Tensor] = torch.empty(0)
        self.hooks = 0

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Return ``module(*inputs)``."""
        if not self.is_decided:
            self.is_decided = True
            self._decide(inputs)
        if self.graph is None or _shapes(inputs) != _shapes(self.inputs) or self._count_hooks() != self.hooks:
            return self.module(*inputs)
        return self._replay(inputs)

    def _replay(self, inputs: tuple[Tensor, ...]) -> Tensor | dict[str, Tensor]:
        assert self.graph is not None
        for recorded, given in zip(self.inputs, inputs, strict=True):
            recorded.copy_(given)
        self.graph.replay()
        # The next replay writes to the same place, and features may still be looked at then.
        if isinstance(self.output, dict):
            return {name: value.clone() for name, value in self.output.items()}
        return self.output.clone()

    def _decide(self, inputs: tuple[Tensor, ...]) -> None:
        usual = _milliseconds(lambda: self.module(*inputs), WARM_UP)
        try:
            self._record(inputs)
            replayed = _milliseconds(lambda: self._replay(inputs), 1)
        except RuntimeError as error:  # of memory, or of what cannot be recorded
            self._forget()
            logger.warning("%s: no CUDA graph: %s", self.name, str(error).partition("\n")[0])
            return
        if is_worth_it(usual, replayed):
            logger.info("%s: a CUDA graph takes %.2f ms, its kernels alone %.2f", self.name, replayed, usual)
            return
        self._forget()
        logger.info("%s: no CUDA graph, which takes %.2f ms, its kernels alone %.2f", self.name, replayed, usual)

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(given.clone() for given in inputs)
        self.hooks = self._count_hooks()
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: loader threads may pin memory meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = self.module(*self.inputs)

    def _forget(self) -> None:
        self.graph, self.inputs, self.output = None, (), torch.empty(0)

    def _count_hooks(self) -> int:
        return sum(len(module._forward_hooks) for module in self.module.modules())


def _shapes(tensors: tuple[Tensor, ...]) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors]


def is_worth_it(usual: float, replayed: float) -> bool:
    """Return whether replays that take ``replayed`` save enough of ``usual``."""
    return replayed < (1 - WORTH_SAVING) * usual


def _milliseconds(function: Callable[[], object], warm_up: int) -> float:
    """Return the median time of a call on the current stream, the host's share included where the device waits for it."""
    times = []
    for number in range(warm_up + TIMED):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        if number >= warm_up:
            times.append(start.elapsed_time(end))
    return statistics.median(times)
