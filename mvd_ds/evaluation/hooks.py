"""Contexts that record what passes inside a network in a forward pass, and as little of it as a picture needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.evaluation.pictures import frame_similarity, received_attention


class LayerSimilarity:
    """A context that records the similarity across frames after every block, ``frame_similarity`` (t, t).

    Args:
        blocks: blocks of the network, first to last; they return (B, [skipped +] N, D), or (B * t, [skipped +] places, D).
        slots: t.
        skipped: tokens before those of the grid.
        frame_by_frame: each frame is a sample of its own, as image networks have them.
    """

    def __init__(self, blocks: Iterable[nn.Module], slots: int, skipped: int = 0, frame_by_frame: bool = False) -> None:
        self.blocks, self.slots, self.skipped, self.frame_by_frame = list(blocks), slots, skipped, frame_by_frame
        self.sums: dict[int, Tensor] = {}
        self.clips: dict[int, int] = {}

    @property
    def layers(self) -> list[Tensor]:
        """Similarity (t, t) after every block that ran, the mean over all clips."""
        return [self.sums[index] / self.clips[index] for index in sorted(self.sums)]

    def _keep(self, index: int, tokens: Tensor) -> None:
        if tokens.ndim != 3:  # queries, keys and values, which a teacher is asked for alone
            return
        tokens = tokens.detach()[:, self.skipped :]
        shape = (-1, self.slots) if self.frame_by_frame else (tokens.shape[0], self.slots)
        grid = tokens.unflatten(0, shape) if self.frame_by_frame else tokens.unflatten(1, (self.slots, -1))
        found = frame_similarity(grid) * len(grid)
        self.sums[index] = self.sums[index] + found if index in self.sums else found
        self.clips[index] = self.clips.get(index, 0) + len(grid)

    def __enter__(self) -> LayerSimilarity:
        def hook(index: int) -> Any:
            return lambda module, inputs, output: self._keep(index, output)

        self.hooks = [block.register_forward_hook(hook(index)) for index, block in enumerate(self.blocks)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


class AttentionOf:
    """A context that records the attention that every token gets from chosen heads of one layer.

    Args:
        projection: layer that returns queries, keys and values of a layer, (B, [skipped +] N, 3 * D).
        heads: number of heads.
        chosen: indices of the heads that are recorded.
        skipped: tokens before those of the grid.
        unpack: makes (B, [skipped +] N, 3, heads, d) of what the layer returns, as the kernels take it; None: it is only split.
    """

    def __init__(
        self,
        projection: nn.Module,
        heads: int,
        chosen: list[int],
        skipped: int = 0,
        unpack: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.projection, self.heads, self.chosen, self.skipped, self.unpack = projection, heads, chosen, skipped, unpack
        self.parts: list[Tensor] = []

    @property
    def received(self) -> dict[int, Tensor]:
        """Attention that each token received, fp32 (B, N), by head."""
        return dict(zip(self.chosen, torch.cat(self.parts).unbind(1), strict=True))

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        packed = output.detach()
        qkv = packed.unflatten(-1, (3, self.heads, -1)) if self.unpack is None else self.unpack(packed)
        self.parts.append(received_attention(qkv, self.chosen, self.skipped))

    def __enter__(self) -> AttentionOf:
        self.hook = self.projection.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def spread_heads(heads: int, count: int = 3) -> list[int]:
    """Return at most ``count`` of ``heads`` indices, evenly spread, the first among them."""
    return sorted({index * heads // count for index in range(count)} if heads > count else range(heads))
