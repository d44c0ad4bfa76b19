"""The training engine as the loop, checkpoints and reports know it: what they use of DeepSpeed, and nothing of its package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mvd_ds.training.cluster import Cluster


class Engine(Protocol):
    """A network, its optimizer and the state of both, sharded over the processes by whatever implements it."""

    config: dict[str, Any]
    """The dict that DeepSpeed was given."""
    global_steps: int
    """Optimizer steps done."""
    global_samples: int
    """Clips seen."""
    skipped_steps: int
    """Steps whose update was not applied, since the beginning of the run."""
    optimizer: Any
    """DeepSpeed's optimizer around torch's; only ``engine_shards`` knows its layout. ``param_groups`` are torch's."""

    @property
    def module(self) -> Any:
        """The ``nn.Module`` that was given, as whoever gave it knows it; under ZeRO-3 its parameters are shards."""
        ...

    def __call__(self, *inputs: Any) -> Any:
        """Run the network's forward pass."""
        ...

    def backward(self, loss: Tensor) -> Any:
        """Run the backward pass of one micro batch; ``loss`` is divided by the accumulation steps."""
        ...

    def step(self) -> Any:
        """End a micro batch; the last one of a step updates the weights."""
        ...

    def train(self) -> Any:
        """Switch the network to training."""
        ...

    def eval(self) -> Any:
        """Switch the network to evaluation."""
        ...

    def zero_optimization_stage(self) -> int:
        """Return the ZeRO stage, 0 to 3."""
        ...

    def gradient_clipping(self) -> float:
        """Return the largest norm of the gradient, 0 without clipping."""
        ...

    def get_global_grad_norm(self) -> Tensor | float | None:
        """Return the norm of the last step's gradient over all processes, None before the first."""
        ...


WholeWeights = Callable[[Engine, Cluster], dict[str, Tensor]]
"""Returns an engine's fp32 weights by name, whole, on the CPU of rank 0 (empty elsewhere). Collective."""
SaveShards = Callable[[Engine, Path, Callable[[Path, Any], None], dict[str, Any]], None]
"""Has every rank's shard files of an engine written into a folder by a function, with plain values beside. Collective."""


class Verdict(Protocol):
    """The answer, on its way from the device, whether all updates up to one step were applied."""

    def passed(self) -> bool:
        """Return the answer; waits until the device has come to that step."""
        ...


class Gate(Protocol):
    """The gate before the optimizer that keeps an update that is not finite from the weights.

    Attributes:
        shut: fp32 scalar on the optimizer's device, 1 where the gate is shut, else 0.
    """

    shut: Tensor

    def verdict(self) -> Verdict:
        """Return whether all updates so far have passed; the device is not waited for."""
        ...

    def open(self) -> None:
        """Let updates pass again."""
        ...
