"""The cross-attention decoder: mask tokens look at encoded visible tokens alone, never at each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvd_ds.config import EncoderSettings, Grid, HeadShape
from mvd_ds.models.block_flops import mlp_flops
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.cross_attention import CrossBlock, LevelMixture
from mvd_ds.models.embed import LearnedToken, Position
from mvd_ds.models.layers import drop_path_factors
from mvd_ds.models.linear import Linear
from mvd_ds.models.readouts.decoder import Decoder
from mvd_ds.models.readouts.readout import Readout
from mvd_ds.models.vit import rotary_of


class CrossDecoder(Readout):
    """A decoder whose blocks are cross-attention and an MLP, with layer norms and GELU whatever the encoder has.

    Mask tokens have positions; what they look at has the encoder's own. A prediction does not depend on which other tokens are
    predicted with it, so that any share of the masked ones may be left out. Visible tokens, where they are predicted, are asked
    for by mask tokens at their places.

    Source: CrossMAE, Fu et al. 2024 (arXiv 2401.14391). Differs: the last level that is mixed is the encoder's output after its
    final norm (there before it, and the norm is not used).

    Args:
        shape: width of the target, and the decoder's width, depth, heads and levels; what is None follows the encoder.
        encoder: settings of the encoder.
        grid: (t, h, w) token grid.
    """

    def __init__(self, shape: HeadShape, encoder: EncoderSettings, grid: Grid) -> None:
        super().__init__(shape, encoder, grid)
        settings = shape.decoder
        width, heads, self.drop_path, norm_eps = settings.sizes(encoder)
        self.checkpoint_every = encoder.activation_checkpointing
        self.mask_token = LearnedToken(width, std=0.02, truncate=encoder.kind == "video")
        self.position = Position(encoder.position, grid, width)
        self.rotary, self.prefix = rotary_of(encoder, grid, width // heads, int(encoder.cls_token)), int(encoder.cls_token)
        rotation = BlockStyle.of(encoder).rotation
        self.blocks = nn.ModuleList(
            CrossBlock(width, encoder.embed_dim, heads, settings.mlp_ratio, encoder.attention, encoder.norm_eps, rotation)
            for _ in range(settings.depth)
        )
        self.mixture: LevelMixture | None = None
        self.needs_levels = settings.levels != "last"
        if self.needs_levels:
            self.first_level = int(settings.levels == "blocks")
            self.mixture = LevelMixture(encoder.depth + 1 - self.first_level, settings.depth)
            self.level_norms = nn.ModuleList(nn.LayerNorm(encoder.embed_dim, eps=encoder.norm_eps) for _ in self.blocks)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head = Linear(width, shape.width)

    def forward(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        drop_path: Tensor | None = None,
        levels: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Return the predictions (B, P, width); see ``Readout``."""
        asked = {"masked": (masked,), "visible": (visible,), "all": (masked, visible)}[self.shape.tokens]
        places = asked[0] if len(asked) == 1 else torch.cat(asked, dim=1)
        tokens = self.position(self.mask_token(*places.shape).to(encoded.dtype), places)
        turns = None if self.rotary is None else self.rotary(places)[:, self.prefix :]
        source_turns = None if self.rotary is None else self.rotary(visible)
        factors = drop_path_factors(drop_path, self.drop_path, self.training)
        for index, (block, source) in enumerate(zip(self.blocks, self._sources(encoded, levels), strict=True)):
            branch_factors = None if factors is None else factors[:, index]
            if self.checkpoint_every and index % self.checkpoint_every == 0 and torch.is_grad_enabled():
                given = (tokens, source, branch_factors, turns, source_turns)
                tokens = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, source, branch_factors, turns, source_turns)
        return self.head(self.norm(tokens))

    def _sources(self, encoded: Tensor, levels: tuple[Tensor, ...]) -> list[Tensor]:
        """Return what each block looks at, (B, [1 +] V, D of the encoder)."""
        if self.mixture is None:
            return [encoded] * len(self.blocks)
        mixed = self.mixture((*levels[self.first_level : -1], encoded))
        return [norm(level) for norm, level in zip(self.level_norms, mixed, strict=True)]

    @staticmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations for one sample; see ``Readout``."""
        settings, source = shape.decoder, visible + encoder.cls_token
        asked = shape.predicted(visible, masked)
        width = settings.sizes(encoder).width
        levels = {"last": 0, "blocks": encoder.depth, "blocks_and_embedding": encoder.depth + 1}[settings.levels]
        mixing = 2 * settings.depth * levels * source * encoder.embed_dim
        block = 4 * asked * width**2 + 4 * source * encoder.embed_dim * width + 4 * asked * source * width
        block += mlp_flops(asked, width, settings.mlp_ratio)
        return mixing + settings.depth * block + 2 * asked * width * shape.width


def decoder_kind(shape: HeadShape) -> type[Readout]:
    """Return the decoder that a shape asks for: of self-attention among all tokens, or of cross-attention."""
    return CrossDecoder if shape.decoder.attention == "cross" else Decoder
