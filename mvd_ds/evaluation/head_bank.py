"""Heads of one shape that are trained side by side on the same features, each with a learning rate of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F


class Candidate(NamedTuple):
    """One head in training, among which a probe is chosen."""

    block: int
    """Position of its block among those that are probed."""
    label: int
    """Column of the labels."""
    seed: int
    """Position among the seeds."""
    rate: float
    """Learning rate."""
    decay: float
    """Weight decay."""


class HeadBank:
    """Heads on the same block and label, computed as one batch.

    Every head keeps parameters and moments of its own: it learns what it would learn alone, but for the rounding of larger
    products.

    Args:
        candidates: what they are.
        build: seed's position -> a head with its initial weights.
        device: where they are.
    """

    def __init__(self, candidates: Sequence[Candidate], build: Callable[[int], nn.Module], device: torch.device) -> None:
        self.candidates = tuple(candidates)
        self.block, self.label = candidates[0].block, candidates[0].label
        self.heads = [build(one.seed).to(device) for one in candidates]
        self._parameters = [dict(head.named_parameters()) for head in self.heads]
        groups = [
            {"params": list(parameters.values()), "lr": one.rate, "weight_decay": one.decay}
            for one, parameters in zip(candidates, self._parameters, strict=True)
        ]
        self.optimizer = torch.optim.AdamW(groups)

    def logits(self, seen: Any) -> Tensor:
        """Return fp32 (heads, B, classes) of what the heads see of B clips."""
        stacked = {name: torch.stack([own[name] for own in self._parameters]) for name in self._parameters[0]}
        return vmap(lambda parameters: functional_call(self.heads[0], parameters, (seen,)))(stacked).float()

    def accumulate(self, seen: Any, targets: Tensor, weights: Tensor) -> None:
        """Add the gradients of some clips of a step.

        Args:
            seen: what the heads see of B clips.
            targets: int64 (B,).
            weights: (heads, B), weight of every clip in the loss of each head.
        """
        logits = self.logits(seen)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.repeat(len(logits)), reduction="none")
        (losses.view(weights.shape) * weights).sum().backward()

    def step(self, factor: float, learns: Sequence[bool]) -> None:
        """Take an optimizer step at ``factor`` of the learning rates; heads that saw no clip to learn from take none."""
        for one, group, does in zip(self.candidates, self.optimizer.param_groups, learns, strict=True):
            group["lr"] = one.rate * factor
            if not does:
                for parameter in group["params"]:
                    parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def finite(self) -> list[bool]:
        """Return which heads have finite parameters only."""
        return [all(bool(value.isfinite().all()) for value in own.values()) for own in self._parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and moments."""
        return {"heads": [head.state_dict() for head in self.heads], "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        for head, values in zip(self.heads, state["heads"], strict=True):
            head.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])
