"""Statistics that a run keeps of its targets, equal on all ranks whatever their number and the micro batches.

Sums are collected in fp64 over the micro batches of a step, added up over the ranks at its end, and move the statistics
once, unless the step was skipped. A calibration over the first clips of the training order gives the values to begin with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError

Reduce = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over all ranks. Collective."""

#: Tokens that are turned into fp64 at once: 64 MiB at a width of 1,024.
CHUNK_TOKENS = 8192


class Statistics(nn.Module):
    """Base of everything that estimates numbers from targets while a run goes on.

    The persistent buffers are the state that checkpoints keep. ``sums`` holds what the running step has collected.

    Args:
        size: number of sums that a step collects.
    """

    rounds: ClassVar[tuple[int, ...]] = ()
    """Passes over the calibration clips that it needs, in the order of all: 0 for what makes targets, 1 and 2 for what
    measures the targets that were made."""
    moves: ClassVar[bool] = False
    """True where every applied step moves the state."""
    sums: Tensor

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        self.round: int | None = None
        self.register_buffer("sums", torch.zeros(size, dtype=torch.float64), persistent=False)

    def begin(self, number: int) -> None:
        """Begin round ``number`` of the calibration."""
        self.round = number
        self.sums.zero_()

    def settle(self, sums: Tensor) -> None:
        """Take the ``sums`` of a calibration round over all ranks; without ``rounds`` there are none.

        Raises:
            ConfigError: if they are too few for an estimate.
        """

    def move(self, sums: Tensor, progress: float) -> None:
        """Move the state by the ``sums`` of a step over all ranks, at ``progress`` from 0 (first step) to 1 of the run; nothing
        does without ``moves``."""

    def state(self) -> list[Tensor]:
        """Return the persistent buffers, which checkpoints keep."""
        kept = self.state_dict().keys()
        return [buffer for name, buffer in self.named_buffers() if name in kept]

    def summary(self) -> dict[str, Tensor]:
        """Return scalars that tell the state in a metric writer, by short name."""
        return {}


@torch.no_grad()
def update_statistics(parts: Sequence[Statistics], reduce: Reduce, shut: Tensor, progress: float) -> None:
    """Move the statistics at the end of a step, with one reduction for all of them. Collective.

    Args:
        parts: the statistics, in the same order on every rank.
        reduce: adds up over the ranks.
        shut: fp32 scalar of ``UpdateGate``: at 1 the step was skipped and nothing moves.
        progress: share of the run that was done before this step.
    """
    moving = [part for part in parts if part.moves]
    if not moving:
        return
    sums = reduce(torch.cat([part.sums for part in moving]))
    is_shut = shut.to(sums.device) > 0
    for part, own in zip(moving, sums.split([len(part.sums) for part in moving]), strict=True):
        before = [buffer.clone() for buffer in part.state()]
        part.move(own, progress)
        for buffer, value in zip(part.state(), before, strict=True):
            buffer.copy_(torch.where(is_shut, value, buffer))
        part.sums.zero_()


@torch.no_grad()
def settle_statistics(parts: Sequence[Statistics], reduce: Reduce) -> None:
    """End a round of the calibration for the ``parts`` that took part in it. Collective.

    Raises:
        ConfigError: on every rank, if a part saw too little or something that is not finite.
    """
    for part in parts:
        sums = reduce(part.sums)
        if not torch.isfinite(sums).all():
            raise ConfigError("the first clips give targets that are not finite: use engine.precision=fp32, or mend the weights")
        part.settle(sums)
        part.round = None
        part.sums.zero_()


def statistics_state(parts: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Return the state of all ``parts`` on the CPU by dotted name, as checkpoints and model folders keep it."""
    return {f"{name}.{key}": value.cpu().clone() for name, part in parts.items() for key, value in part.state_dict().items()}


def summaries(parts: Mapping[str, Statistics]) -> dict[str, float]:
    """Return the numbers that tell the state of ``parts`` by metric name; waits for the device."""
    return {
        f"statistics/{name.replace('.', '_')}_{key}": float(value)
        for name, part in parts.items()
        for key, value in part.summary().items()
    }


def load_statistics(parts: Mapping[str, Statistics], state: Mapping[str, Tensor], origin: str) -> None:
    """Go on from the ``state`` of ``statistics_state``, to the bit.

    Raises:
        ConfigError: if it is of other statistics than ``parts``.
    """
    own = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict(keep_vars=True).items()}
    for key in sorted(own.keys() | state.keys()):
        shapes = [tuple(tensors[key].shape) if key in tensors else "none" for tensors in (own, state)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{origin}: the statistics of targets are of another run: {key} is {shapes[1]} there, {shapes[0]} here"
            )
    for key, value in own.items():
        value.copy_(state[key])


def exact_sums(features: Tensor, products: bool = False) -> Tensor:
    """Return count, sums and sums of squares (or of all products) of tokens, in fp64, whatever their mean is.

    Args:
        features: (..., D), any float type.
        products: sum the products of all pairs of channels.

    Returns:
        fp64 (1 + D + D,) or (1 + D + D * D,).
    """
    tokens = features.detach().flatten(0, -2)
    width = tokens.shape[-1]
    total = torch.zeros(1 + width + (width * width if products else width), dtype=torch.float64, device=tokens.device)
    for chunk in tokens.split(CHUNK_TOKENS):
        exact = chunk.double()
        second = exact.T @ exact if products else exact.square().sum(dim=0)
        total += torch.cat((total.new_full((1,), len(exact)), exact.sum(dim=0), second.flatten()))
    return total


def cosine_fall(progress: float, first: float, last: float) -> float:
    """Return ``first`` at ``progress`` 0 and ``last`` at 1, half a cosine in between."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
