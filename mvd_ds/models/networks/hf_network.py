"""A network of transformers as a frozen network: what is read of it is kept while it runs."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import Grid, TeacherSettings
from mvd_ds.models.networks.attention_rows import attention_row
from mvd_ds.models.networks.family import Reading, Reads
from mvd_ds.models.networks.hf_attention import keep_heads
from mvd_ds.models.networks.hf_towers import Tower
from mvd_ds.models.networks.renormalised import Colours, Renormalised


class HfTower(nn.Module):
    """A network of transformers, of which what is read of some blocks is kept while it runs.

    Blocks behind the last one that is read are dropped, and so is what only makes a summary that nobody reads.

    Args:
        network: the network of pixels.
        tower: its row.
        reads: the parts of a pass that are read.
        pixels: the mean and deviation of its pixels.
    """

    def __init__(self, network: Any, tower: Tower, reads: Reads, pixels: tuple[Colours, Colours]) -> None:
        super().__init__()
        self.network, self.tower = network, tower
        self.pixels = Renormalised(*pixels)
        self.seen: dict[int, Tensor] = {}
        """The outputs of the last forward pass, by block, class and register tokens included."""
        self.heads: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        """Its queries, keys and values by block, (B, heads, N, d) each."""
        stack = network.get_submodule(tower.blocks)
        self.is_pooled = bool(tower.head) and len(stack) - 1 in reads.summaries
        if not self.is_pooled:
            del stack[reads.last + 1 :]
            if tower.head and hasattr(network, tower.head):
                network.use_head = False
                delattr(network, tower.head)
            if tower.norm and not reads.through_norm and isinstance(getattr(network, tower.norm), nn.Module):
                setattr(network, tower.norm, nn.Identity())
        for block in {*reads.blocks, *reads.summaries}:
            stack[block].register_forward_hook(functools.partial(self._keep, block))
        for block in {*reads.qkv, *reads.attention}:
            keep_heads(stack[block], functools.partial(self._keep_heads, block))

    def forward(self, clip: Tensor) -> Any:
        """Return what the network gives for (B, C, T, H, W) normalised by ImageNet's numbers, T = 1 for frames."""
        return self.network(**self.tower.inputs(self.network, self.pixels(clip)))

    def norm(self, tokens: Tensor) -> Tensor:
        """Return tokens after the network's last norm."""
        return getattr(self.network, self.tower.norm)(tokens)

    def _keep(self, block: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen[block] = output if isinstance(output, Tensor) else output[0]

    def _keep_heads(self, block: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        self.heads[block] = query, key, value

    def _apply(self, fn: Any, recurse: bool = True) -> HfTower:
        """Move as any module does, but leave tables in fp32: the frequencies of rotary positions do not bear rounding."""
        tables = {name: table for name, table in self.named_buffers() if table.dtype == torch.float32}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            owner, _, key = name.rpartition(".")
            module = self.get_submodule(owner)
            module._buffers[key] = table.to(module._buffers[key].device)  # type: ignore[union-attr]
        return self


class HfNetwork:
    """An ``HfTower`` behind the interface of frozen networks.

    Args:
        module: the tower with its weights.
        settings: the teacher's settings.
        grid: (t, h, w) token grid of one input.
        prefix: class and register tokens before the patch tokens.
        block_count: number of blocks before any was dropped.
        reads: the parts of a pass that are read.
    """

    is_selective = False

    def __init__(
        self, module: HfTower, settings: TeacherSettings, grid: Grid, prefix: int, block_count: int, reads: Reads
    ) -> None:
        self.module, self.grid, self.prefix = module, grid, prefix
        self.embed_dim = settings.embed_dim
        self.input_mean, self.input_std = module.pixels.mean, module.pixels.std
        self.block_count, self.reads = block_count, reads

    def read(self, clip: Tensor, wanted: Tensor | None = None) -> Reading:
        """Run the network and return what is read of it; see ``FrozenNetwork``.

        The summary of the last block is the network's own where it pools by attention.
        """
        assert wanted is None, "networks of transformers give all tokens"
        output = self.module(clip)
        seen, heads = dict(self.module.seen), dict(self.module.heads)
        self.module.seen.clear()
        self.module.heads.clear()
        if self.reads.through_norm:
            seen = {block: self.module.norm(tokens) for block, tokens in seen.items()}
        summaries = {block: self._summary(seen[block]) for block in self.reads.summaries}
        if self.module.is_pooled:
            summaries[self.block_count - 1] = output.pooler_output
        rows = {block: self._row(*heads[block][:2]) for block in self.reads.attention}
        return Reading(
            {block: seen[block][:, self.prefix :] for block in self.reads.blocks},
            summaries,
            {block: torch.stack(heads[block], dim=1).permute(0, 3, 1, 2, 4)[:, self.prefix :] for block in self.reads.qkv},
            rows,
        )

    def has_summary(self, block: int) -> bool:
        """Return whether the summary of a block is a class token or the network's own pooling, and not the mean of its tokens."""
        return self.prefix > 0 or (self.module.is_pooled and block == self.block_count - 1)

    def _summary(self, tokens: Tensor) -> Tensor:
        """Return the class token, or the mean of the tokens where there is none."""
        return tokens[:, 0] if self.prefix else tokens.mean(dim=1, dtype=torch.float32).to(tokens.dtype)

    def _row(self, query: Tensor, key: Tensor) -> Tensor:
        return attention_row(query, key, 0 if self.prefix else None)[:, self.prefix :]
