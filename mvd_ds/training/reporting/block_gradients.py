"""The size of gradients, block by block, in the step at which pictures are taken."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.training.cluster import Cluster

BLOCK = re.compile(r"(?:(\w+)\.)*blocks\.(\d+)\.")


class BlockGradients:
    """A context that sums the squares of the gradients of every transformer block of ``model`` while micro batches run.

    Gradients are those of a rank's own micro batch, before any reduction, which parameters' hooks see under every ZeRO stage.

    Args:
        wanted: without it nothing is done.
    """

    def __init__(self, model: nn.Module, wanted: bool) -> None:
        self.model, self.wanted = model, wanted
        self.squares: dict[str, Tensor] = {}
        self.hooks: list[Any] = []

    def __enter__(self) -> BlockGradients:
        for name, parameter in self.model.named_parameters() if self.wanted else ():
            if (block := block_of(name)) is not None and parameter.requires_grad:
                self.hooks.append(parameter.register_hook(lambda gradient, block=block: self._add(block, gradient)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _add(self, block: str, gradient: Tensor) -> None:
        square = gradient.detach().float().square().sum()
        self.squares[block] = self.squares[block] + square if block in self.squares else square

    def norms(self, cluster: Cluster, micro_batches: int) -> dict[str, float]:
        """Return the L2 norm by block, in the order of the model: root mean square over micro batches and ranks. Collective.

        Args:
            micro_batches: of a step; the engine has divided each loss by their number.
        """
        order = [name for name, _ in self.model.named_parameters() if self.wanted]
        names = [block for block in dict.fromkeys(map(block_of, order)) if block is not None]
        if not names:
            return {}
        zero = torch.zeros((), device=cluster.device)
        squares = cluster.mean(torch.stack([self.squares.get(name, zero) for name in names]))
        return dict(zip(names, (squares * micro_batches).sqrt().tolist(), strict=True))


def block_of(parameter: str) -> str | None:
    """Return ``encoder 3`` for ``encoder.blocks.3.attention.qkv.weight``, ``image 0`` for a decoder's, None outside blocks."""
    found = BLOCK.match(parameter)
    return f"{found[1]} {found[2]}" if found else None
