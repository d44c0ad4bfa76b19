"""Logits over prototypes for hidden patches and for the class token, from one head that both share.

Source: iBOT (arXiv 2111.07832): MLP, a bottleneck of length 1, prototypes of length 1 without bias.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import EncoderSettings, Grid, HeadShape, PrototypeSettings
from mvd_ds.models.linear import Linear
from mvd_ds.models.readouts.cross import decoder_kind
from mvd_ds.models.readouts.readout import Readout


class Prototypes(Linear):
    """The cosines of vectors with prototypes, in fp32: in bf16 a cosine has three digits, and temperatures are small.

    Args:
        width: D.
        count: number of prototypes.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__(width, count, bias=False)

    def forward(self, vectors: Tensor, learning: Tensor | None = None) -> Tensor:
        """Return cosines (..., count) of vectors (..., D); where the scalar ``learning`` is 0, prototypes get no gradient."""
        weight = self.weight.float()
        if learning is not None:
            kept = weight.detach()
            weight = kept + learning * (weight - kept)
        return F.linear(F.normalize(vectors.float(), dim=-1), F.normalize(weight, dim=-1))


class PrototypeHead(nn.Module):
    """The MLP and the prototypes, which students and their average share.

    Args:
        width: D of a token.
        settings: sizes.
    """

    def __init__(self, width: int, settings: PrototypeSettings) -> None:
        super().__init__()
        widths = [width, *(settings.hidden for _ in range(settings.layers - 1)), settings.bottleneck]
        self.layers = nn.ModuleList(Linear(first, second) for first, second in pairwise(widths))
        self.prototypes = Prototypes(settings.bottleneck, settings.outputs)

    def forward(self, tokens: Tensor, learning: Tensor | None = None) -> Tensor:
        """Return logits fp32 (..., outputs) of tokens (..., D)."""
        for layer in self.layers[:-1]:
            tokens = F.gelu(layer(tokens))
        return self.prototypes(self.layers[-1](tokens), learning)

    @staticmethod
    def flops(width: int, settings: PrototypeSettings) -> int:
        """Return the operations of a token."""
        widths = [width, *(settings.hidden for _ in range(settings.layers - 1)), settings.bottleneck, settings.outputs]
        return sum(2 * first * second for first, second in pairwise(widths))


class PrototypeReadout(Readout):
    """A decoder of the encoder's width for hidden patches, and one head for them, the class token and those of local crops.

    Differs from iBOT, whose encoder sees mask tokens: here they enter behind it, in the decoder.

    Args:
        shape: shape of the decoder, and of the head.
        encoder: settings of the encoder; it has a class token.
        grid: (t, h, w) token grid.
    """

    def __init__(self, shape: HeadShape, encoder: EncoderSettings, grid: Grid) -> None:
        super().__init__(shape, encoder, grid)
        assert shape.prototypes is not None
        self.decoder = decoder_kind(shape)(_inner(shape, encoder), encoder, grid)
        self.needs_levels = self.decoder.needs_levels
        self.head = PrototypeHead(encoder.embed_dim, shape.prototypes)

    def forward(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        drop_path: Tensor | None = None,
        levels: tuple[Tensor, ...] = (),
        local: Tensor | None = None,
        learning: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, M + 1 + L, outputs), fp32: of hidden patches, of the class token, of local crops; see ``Readout``.

        Args:
            local: (B, L, D), class tokens of local crops; None: there are none.
            learning: scalar, 0 while the prototypes do not learn; None: they do.
        """
        parts = [self.decoder(encoded, visible, masked, drop_path, levels), encoded[:, :1]]
        if local is not None:
            parts.append(local)
        return self.head(torch.cat(parts, dim=1), learning)

    @staticmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations for one sample; see ``Readout``."""
        assert shape.prototypes is not None
        heads = (masked + 1 + shape.prototypes.local_crops) * PrototypeHead.flops(encoder.embed_dim, shape.prototypes)
        return decoder_kind(shape).flops(_inner(shape, encoder), encoder, visible, masked) + heads


def _inner(shape: HeadShape, encoder: EncoderSettings) -> HeadShape:
    """Return what is asked of the decoder: tokens of the encoder's width."""
    return HeadShape(encoder.embed_dim, shape.decoder)
