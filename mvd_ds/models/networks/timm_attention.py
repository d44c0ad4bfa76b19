"""The attention that tokens of a vision transformer of timm get, computed beside its own kernel."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from mvd_ds.models.networks.attention_rows import attention_row


class AttentionTaps:
    """Hooks that keep the queries and keys of some blocks as the attention gets them, after any norm of heads.

    Args:
        network: a network that ``is_tappable``.
        blocks: numbers of the blocks.
    """

    def __init__(self, network: Any, blocks: tuple[int, ...]) -> None:
        self.prefix, self.class_token = network.num_prefix_tokens, None if network.cls_token is None else 0
        self.seen: dict[tuple[int, str], Tensor] = {}
        for block in blocks:
            for name in ("q_norm", "k_norm"):
                network.blocks[block].attn.get_submodule(name).register_forward_hook(functools.partial(self._keep, (block, name)))

    def _keep(self, key: tuple[int, str], module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen[key] = output

    def rows(self) -> dict[int, Tensor]:
        """Return the attention (B, N) that every patch token got in the pass before, by block."""
        seen, self.seen = self.seen, {}
        blocks = sorted({block for block, _ in seen})
        rows = {block: attention_row(seen[block, "q_norm"], seen[block, "k_norm"], self.class_token) for block in blocks}
        return {block: row[:, self.prefix :] for block, row in rows.items()}


def is_tappable(network: nn.Module) -> bool:
    """Return whether all blocks have timm's plain attention: rotary positions and windows come after what is hooked."""
    from timm.layers.attention import Attention

    blocks = getattr(network, "blocks", ())
    return len(blocks) > 0 and all(type(getattr(block, "attn", None)) is Attention for block in blocks)
