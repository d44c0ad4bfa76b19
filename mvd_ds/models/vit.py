"""The encoder of students and teachers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvd_ds.config import EncoderSettings, Grid
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.rotary import ROTATIONS, Rotary
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.embed import LearnedToken, PatchEmbed, Position, split_mask
from mvd_ds.models.layers import Block, drop_path_factors, run_blocks


class VisionTransformer(nn.Module):
    """A Vision Transformer over the tokens of a clip, or over the visible ones of them.

    Args:
        settings: architecture.
        grid: (t, h, w) token grid; t = 1 for an image encoder, whose frames are clips of their own.
    """

    def __init__(self, settings: EncoderSettings, grid: Grid) -> None:
        super().__init__()
        self.settings = settings
        self.grid = grid
        width = settings.embed_dim
        is_image = settings.kind == "image"
        self.patch_embed = PatchEmbed(width, grid, settings.tubelet_frames, settings.patch_px, xavier=is_image)
        self.position = Position(settings.position, grid, width, has_cls=settings.cls_token)
        std = 0.02 if is_image else 1e-6
        self.cls_token = LearnedToken(width, std) if settings.cls_token else None
        self.registers = LearnedToken(width, std=0.02, tokens=settings.registers) if settings.registers else None
        self.rotary = rotary_of(settings, grid, width // settings.num_heads, settings.prefix_tokens)
        style = BlockStyle.of(settings)
        self.blocks = nn.ModuleList(
            Block(width, settings.num_heads, settings.mlp_ratio, settings.qkv_bias, settings.attention, settings.norm_eps, style)
            for _ in range(settings.depth)
        )
        self.norm: nn.Module = NORMS[settings.norm](width, eps=settings.norm_eps) if settings.final_norm else nn.Identity()

    def embed(self, clip: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return tokens before the first block, (B * K, [1 +] [R +] V, D).

        The class token comes first and has no fixed position (MAE), registers are behind it.
        """
        tokens = self.patch_embed(clip, visible)
        cls = None if self.cls_token is None else self.cls_token(tokens.shape[0], 1)
        tokens = self.position(tokens, None if visible is None else visible.flatten(0, 1), cls)
        if self.registers is None:
            return tokens
        cls, patches = tokens.tensor_split((int(self.settings.cls_token),), dim=1)
        registers = self.registers(len(tokens), self.settings.registers).to(tokens.dtype)
        return torch.cat((cls, registers, patches), dim=1)

    def turns(self, visible: Tensor | None = None) -> Tensor | None:
        """Return what blocks need to know of the places of ``embed``'s tokens; None where positions are not rotary."""
        return None if self.rotary is None else self.rotary(None if visible is None else visible.flatten(0, 1))

    def without_registers(self, tokens: Tensor) -> Tensor:
        """Return (B, [1 +] V, D) of tokens (B, [1 +] [R +] V, D) behind a block."""
        if self.registers is None:
            return tokens
        cls, _, patches = tokens.tensor_split((int(self.settings.cls_token), self.settings.prefix_tokens), dim=1)
        return torch.cat((cls, patches), dim=1) if self.settings.cls_token else patches

    def forward(
        self,
        clip: Tensor,
        mask: Tensor | None = None,
        drop_path: Tensor | None = None,
        *,
        levels: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the tokens after the final norm, without registers.

        Args:
            clip: (B, C, T, H, W) normalised.
            mask: bool (B, N) or (B, K, N), True = masked, each mask on its own; or int64 (B, K, V) indices of the visible
                tokens, for the same; None: all are visible, and K = 1.
            drop_path: (B, K, depth) uniforms in [0, 1), one per block; None: nothing is dropped.
            levels: a list that gets the tokens before the first block and after every block, without registers and
                before the final norm.

        Returns:
            (B * K, V, D), or (B * K, 1 + V, D) with a class token.

        Raises:
            ConfigError: if the clip or the mask does not have the shape or type that is stated here.
        """
        visible = mask
        if mask is not None and mask.dtype == torch.bool:
            visible, _ = split_mask(mask, len(clip), math.prod(self.grid))
        uniforms = None if drop_path is None else drop_path.flatten(0, 1)
        factors = drop_path_factors(uniforms, self.settings.drop_path, self.training)
        every, turns = self.settings.activation_checkpointing, self.turns(visible)
        tokens = run_blocks(self.blocks, self.embed(clip, visible), factors, every, turns=turns, levels=levels)
        if levels is not None:
            levels[:] = [self.without_registers(level) for level in levels]
        return self.norm(self.without_registers(tokens))


def rotary_of(settings: EncoderSettings, grid: Grid, head_dim: int, prefix: int) -> Rotary | None:
    """Return the rotary positions of a stack of blocks on ``grid``, behind ``prefix`` tokens; None for other positions."""
    return Rotary(settings.position, grid, head_dim, prefix, settings.rope_side) if settings.position in ROTATIONS else None
