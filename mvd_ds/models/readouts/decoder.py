"""The published decoder: self-attention among the encoded visible tokens and a mask token for every masked one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvd_ds.config import EncoderSettings, Grid, HeadShape
from mvd_ds.models.block_flops import block_flops
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.embed import LearnedToken, Position
from mvd_ds.models.layers import Block, drop_path_factors, run_blocks
from mvd_ds.models.linear import Linear
from mvd_ds.models.readouts.readout import Readout
from mvd_ds.models.vit import rotary_of


class Decoder(Readout):
    """A decoder that predicts the target of every masked token from the encoded visible ones. Source: MVD 1.1.

    Args:
        shape: width of the target, and the decoder's width, depth and heads; what is None follows the encoder.
        encoder: settings of the encoder.
        grid: (t, h, w) token grid.
    """

    def __init__(self, shape: HeadShape, encoder: EncoderSettings, grid: Grid) -> None:
        super().__init__(shape, encoder, grid)
        settings = shape.decoder
        width, heads, self.drop_path, norm_eps = settings.sizes(encoder)
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
        self.norm = NORMS[encoder.norm](width, eps=norm_eps)
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
        projected = self.projection(encoded)
        cls, tokens = projected.split((int(self.has_cls), visible.shape[1]), dim=1)
        queries = self.mask_token(*masked.shape).to(tokens.dtype)
        places = torch.cat((visible, masked), dim=1)
        tokens = self.position(torch.cat((tokens, queries), dim=1), places, cls)
        factors = drop_path_factors(drop_path, self.drop_path, self.training)
        turns = None if self.rotary is None else self.rotary(places)
        tokens = run_blocks(self.blocks, tokens, factors, self.checkpoint_every, turns=turns)
        of_visible, of_masked = tokens[:, int(self.has_cls) :].split((visible.shape[1], masked.shape[1]), dim=1)
        wanted = {"masked": (of_masked,), "visible": (of_visible,), "all": (of_masked, of_visible)}[self.shape.tokens]
        # One product for each: those of masked tokens are the same to the bit, whatever else is predicted.
        predicted = [self.head(self.norm(part)) for part in wanted]
        return predicted[0] if len(predicted) == 1 else torch.cat(predicted, dim=1)

    @staticmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations for one sample; see ``Readout``."""
        cls, settings = int(encoder.cls_token), shape.decoder
        width = settings.sizes(encoder).width
        projection = 2 * (visible + cls) * encoder.embed_dim * width
        blocks = settings.depth * block_flops(visible + masked + cls, width, settings.mlp_ratio, encoder.mlp)
        return projection + blocks + 2 * shape.predicted(visible, masked) * width * shape.width
