"""The student of both stages: an encoder of visible tokens and, per target, a decoder of masked ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvd_ds.config import DecoderSettings, EncoderSettings, Grid
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.embed import LearnedToken, Position, split_mask
from mvd_ds.models.layers import Block, drop_path_factors, run_blocks
from mvd_ds.models.linear import Linear
from mvd_ds.models.vit import VisionTransformer, rotary_of


class Decoder(nn.Module):
    """Predicts the target of every masked token from the encoded visible ones. Source: MVD 1.1.

    Args:
        settings: width, depth and heads; what is None follows the encoder.
        encoder: settings of the encoder.
        grid: (t, h, w) token grid.
        output: width of the target.
    """

    def __init__(self, settings: DecoderSettings, encoder: EncoderSettings, grid: Grid, output: int) -> None:
        super().__init__()
        width = settings.embed_dim or encoder.embed_dim
        heads = settings.num_heads or encoder.num_heads
        self.drop_path = encoder.drop_path if settings.drop_path is None else settings.drop_path
        self.checkpoint_every = encoder.activation_checkpointing
        self.has_cls = encoder.cls_token
        self.projection = Linear(encoder.embed_dim, width, bias=settings.projection_bias)
        self.mask_token = LearnedToken(width, std=0.02, truncate=encoder.kind == "video")
        self.position = Position(encoder.position, grid, width, has_cls=encoder.cls_token)
        self.rotary = rotary_of(encoder, grid, width // heads, int(encoder.cls_token))
        style = BlockStyle.of(encoder)
        self.blocks = nn.ModuleList(
            Block(width, heads, settings.mlp_ratio, encoder.qkv_bias, encoder.attention, encoder.norm_eps, style)
            for _ in range(settings.depth)
        )
        self.norm = NORMS[encoder.norm](width, eps=settings.norm_eps or encoder.norm_eps)
        self.head = Linear(width, output)

    def forward(self, encoded: Tensor, visible: Tensor, masked: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """Return the predictions for the masked tokens.

        Args:
            encoded: (B, [1 +] V, D of the encoder).
            visible: (B, V) token indices.
            masked: (B, M) token indices.
            drop_path: (B, depth) uniforms, or None.

        Returns:
            (B, M, output), in the order of ``masked``.
        """
        projected = self.projection(encoded)
        cls, tokens = projected.split((int(self.has_cls), visible.shape[1]), dim=1)
        queries = self.mask_token(*masked.shape).to(tokens.dtype)
        places = torch.cat((visible, masked), dim=1)
        tokens = self.position(torch.cat((tokens, queries), dim=1), places, cls)
        factors = drop_path_factors(drop_path, self.drop_path, self.training)
        turns = None if self.rotary is None else self.rotary(places)
        tokens = run_blocks(self.blocks, tokens, factors, self.checkpoint_every, turns=turns)
        return self.head(self.norm(tokens[:, tokens.shape[1] - masked.shape[1] :]))


class MaskedPredictor(nn.Module):
    """An encoder and one decoder per target; decoders share nothing.

    Args:
        settings: the encoder.
        grid: (t, h, w) token grid.
        decoder: settings of every decoder.
        outputs: width of each target by name.
    """

    def __init__(self, settings: EncoderSettings, grid: Grid, decoder: DecoderSettings, outputs: dict[str, int]) -> None:
        super().__init__()
        self.encoder = VisionTransformer(settings, grid)
        self.decoders = nn.ModuleDict({name: Decoder(decoder, settings, grid, width) for name, width in outputs.items()})
        self.decoder_settings, self.outputs = decoder, outputs
        self.block_counts = [settings.depth] + [decoder.depth] * len(outputs)

    @property
    def drop_path_blocks(self) -> int:
        """Uniforms per mask that drop path takes: the encoder's blocks, then each decoder's in the order of ``outputs``."""
        return sum(self.block_counts)

    def forward(
        self, clip: Tensor, mask: Tensor, masked: Tensor | None = None, drop_path: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the predictions of every target for the masked tokens.

        Args:
            clip: (B, C, T, H, W) normalised.
            mask: bool (B, N) or (B, K, N), True = masked; or, with ``masked``, int64 (B, K, V) indices of visible tokens.
            masked: int64 (B, K, M) indices of the tokens to predict; None: all that the bool ``mask`` hides.
            drop_path: (B, K, drop_path_blocks) uniforms in [0, 1), or None.

        Returns:
            (B * K, M, width) by name.

        Raises:
            ConfigError: if the clip or the mask does not have the shape or type that is stated here.
        """
        visible = mask
        if masked is None:
            visible, masked = split_mask(mask, len(clip), math.prod(self.encoder.grid))
        parts: list[Tensor | None] = [None] * len(self.block_counts)
        if drop_path is not None:
            parts = list(drop_path.split(self.block_counts, dim=-1))
        encoded = self.encoder(clip, visible, parts[0])
        visible, masked = visible.flatten(0, 1), masked.flatten(0, 1)
        predictions = {}
        for (name, decoder), uniforms in zip(self.decoders.items(), parts[1:], strict=True):
            predictions[name] = decoder(encoded, visible, masked, None if uniforms is None else uniforms.flatten(0, 1))
        return predictions
