"""The block of every transformer here, its drop path, and running a stack of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvd_ds.models.attention import Attention
from mvd_ds.models.blocks.mlps import MLPS, Mlp, SwiGlu
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.style import PLAIN, BlockStyle, LayerScale

#: Epsilon of a LayerNorm whose settings do not say. Source: MAE, VideoMAE, MVD.
NORM_EPS = 1e-6


class BlockBackend(Protocol):
    """Whatever computes blocks in place of torch's kernels, such as a compiled graph; it is given to a block from outside.

    All arguments are those of ``Block.compute``.
    """

    def prepare(
        self, block: Block, tokens: Tensor, branch_factors: Tensor | None, wanted: Tensor | None, turns: Tensor | None
    ) -> None:
        """Get ready for what the stack is about to compute; activations are not being recomputed at this moment."""

    def __call__(
        self, block: Block, tokens: Tensor, branch_factors: Tensor | None, wanted: Tensor | None, turns: Tensor | None
    ) -> Tensor:
        """Return what ``block.compute`` would return."""


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each added to its input. Source: MVD.

    Args:
        width: D, width of a token.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: ``query_value`` or ``full``.
        kernel: attention kernel, see ``attention.choose_kernel``.
        eps: epsilon of the norms.
        style: norms, MLP, LayerScale, norms of queries and keys, rotation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: Literal["query_value", "full"] = "query_value",
        kernel: str = "auto",
        eps: float = NORM_EPS,
        style: BlockStyle = PLAIN,
    ) -> None:
        super().__init__()
        self.arguments = (width, heads, mlp_ratio, qkv_bias, kernel, eps, style)
        """Arguments of this constructor."""
        self.norm_attention = NORMS[style.norm](width, eps=eps)
        self.attention = Attention(width, heads, qkv_bias, kernel, style, eps)
        self.norm_mlp = NORMS[style.norm](width, eps=eps)
        self.mlp: Mlp | SwiGlu = MLPS[style.mlp](width, int(width * mlp_ratio))
        self.scale_attention, self.scale_mlp = (
            nn.Identity() if style.layer_scale is None else LayerScale(width, style.layer_scale) for _ in range(2)
        )
        self.backend: BlockBackend | None = None
        """Computes in place of ``compute`` where it is set."""

    def forward(
        self,
        tokens: Tensor,
        branch_factors: Tensor | None = None,
        wanted: Tensor | None = None,
        turns: Tensor | None = None,
        *,
        projected: bool = False,
        by: Callable[[Block, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Map (B, N, D) to (B, N, D), or fewer tokens where fewer are wanted.

        Args:
            tokens: (B, N, D).
            branch_factors: (B, 2) factors of the attention and the MLP branch (drop path), or None for ones.
            wanted: see ``pick``; all are looked at, and these alone pass the MLP. Only without factors.
            turns: (1 or B, N, 2, d) from ``Rotary``, for blocks with rotary positions.
            projected: return queries, keys and values (B, N, 3, heads, d) and compute nothing else. It is a call of the block,
                as ZeRO-3 gathers its weights for such a call alone.
            by: computes something else of the tokens with this block's weights, in a call of the block for the same reason.
        """
        if by is not None:
            return by(self, tokens)
        if projected:
            return self.attention.unpack(self.attention.qkv(self.norm_attention(tokens)), turns)
        compute = Block.compute if self.backend is None else self.backend
        return compute(self, tokens, branch_factors, wanted, turns)

    def compute(
        self,
        tokens: Tensor,
        branch_factors: Tensor | None = None,
        wanted: Tensor | None = None,
        turns: Tensor | None = None,
    ) -> Tensor:
        """Compute ``forward`` by torch's kernels, one after another."""
        attended = self.scale_attention(self.attention(self.norm_attention(tokens), turns))
        if branch_factors is None:
            tokens = pick(tokens + attended, wanted)
            return tokens + self.scale_mlp(self.mlp(self.norm_mlp(tokens)))
        assert wanted is None, "factors are of whole sequences"
        of_attention, of_mlp = branch_factors.to(tokens.dtype)[:, :, None, None].unbind(1)
        tokens = tokens + of_attention * attended
        return tokens + of_mlp * self.scale_mlp(self.mlp(self.norm_mlp(tokens)))


def pick(tokens: Tensor, wanted: Tensor | None) -> Tensor:
    """Return the ``wanted`` ones of ``tokens`` (B, N, D).

    Args:
        wanted: indices (C, M) into the tokens of B / C neighbours in the batch, such as the frames of a clip, side by side; or
            None for all.

    Returns:
        (C, M, D), or ``tokens``.
    """
    if wanted is None:
        return tokens
    joined = tokens.unflatten(0, (len(wanted), -1)).flatten(1, 2)
    return joined.gather(1, wanted[:, :, None].expand(-1, -1, tokens.shape[-1]))


def drop_path_factors(uniforms: Tensor | None, rate: float, training: bool) -> Tensor | None:
    """Return the factors of the residual branches: 0 for a dropped branch, 1 / (1 - its rate) for a kept one.

    Rates grow linearly over the blocks, from 0 to ``rate``. The two branches of a block are dropped independently, as
    published, though a block has a single uniform: what is left of it after the first decision is uniform again.

    Args:
        uniforms: (B, depth) numbers in [0, 1), or None. They come from outside, so that what is dropped depends on the
            clip and not on the process that computes it.
        rate: rate of the last block.
        training: False switches drop path off.

    Returns:
        (B, depth, 2) fp32 (attention, MLP), or None if nothing can be dropped.
    """
    if uniforms is None or rate == 0.0 or not training:
        return None
    uniforms = uniforms.float()
    rates = torch.linspace(0.0, rate, uniforms.shape[1], device=uniforms.device)
    keep_attention = uniforms >= rates
    rest = torch.where(keep_attention, (uniforms - rates) / (1 - rates), uniforms / rates.clamp_min(1e-12))
    kept = torch.stack((keep_attention, rest >= rates), dim=-1)
    return kept / (1 - rates)[:, None]


def run_blocks(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    tokens: Tensor,
    factors: Tensor | None,
    checkpoint_every: int,
    wanted: Tensor | None = None,
    turns: Tensor | None = None,
    levels: list[Tensor] | None = None,
) -> Tensor:
    """Return the tokens after all ``blocks``.

    Args:
        blocks: the stack, first to last.
        tokens: (B, N, D).
        factors: (B, depth, 2) from ``drop_path_factors``, or None.
        checkpoint_every: recompute the activations of every n-th block (the first, the n+1st, ...) in backward; 0: none.
        wanted: which tokens the last block gives, see ``pick``: nobody reads what its MLP would make of others.
        turns: (1 or B, N, 2, d) of rotary positions, the same for all blocks, or None.
        levels: a list that gets the tokens before the first block and after every block.
    """
    last = len(blocks) - 1
    if levels is not None:
        levels.append(tokens)
    for index, block in enumerate(blocks):
        branch_factors = None if factors is None else factors[:, index]
        leaving = wanted if index == last else None
        if torch.is_grad_enabled() and not tokens.requires_grad and any(p.requires_grad for p in block.parameters()):
            # What is before it is frozen. DeepSpeed takes a block's gradients when its input has one, else before there are any.
            tokens = tokens.detach().requires_grad_()
        if (index == 0 or leaving is not None) and isinstance(block, Block) and block.backend is not None:
            block.backend.prepare(block, tokens, branch_factors, leaving, turns)
        if checkpoint_every and index % checkpoint_every == 0 and torch.is_grad_enabled():
            # A block draws no random numbers (drop path comes in as a tensor), so none have to be replayed.
            tokens = checkpoint(block, tokens, branch_factors, leaving, turns, use_reentrant=False, preserve_rng_state=False)
        else:
            tokens = block(tokens, branch_factors, leaving, turns)
        if levels is not None:
            levels.append(tokens)
    return tokens
