"""Readouts without blocks and mask tokens: a linear layer or an MLP on what the encoder gives, token by token or pooled."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import EncoderSettings, Grid, HeadShape
from mvd_ds.models.classifiers.pooling import mean_tokens
from mvd_ds.models.linear import Linear
from mvd_ds.models.readouts.readout import Readout


class TokenReadout(Readout):
    """A linear layer on every visible token after the final norm. Source: UMT (ICCV 2023).

    Differs: no position is added before the layer, and no norm follows it.

    Args:
        shape: width of the target, and ``decoder.hidden``.
        encoder: settings of the encoder.
        grid: (t, h, w) token grid.
    """

    def __init__(self, shape: HeadShape, encoder: EncoderSettings, grid: Grid) -> None:
        super().__init__(shape, encoder, grid)
        self.has_cls = encoder.cls_token
        hidden = shape.decoder.hidden
        self.expand: nn.Module = nn.Identity() if hidden is None else Linear(encoder.embed_dim, hidden)
        self.head = Linear(hidden or encoder.embed_dim, shape.width)

    def forward(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        drop_path: Tensor | None = None,
        levels: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Return the predictions (B, V, width); see ``Readout``."""
        return self.predict(encoded[:, int(self.has_cls) :])

    def predict(self, tokens: Tensor) -> Tensor:
        """Map (..., D) to (..., width): linear, or linear, GELU, linear."""
        if self.shape.decoder.hidden is not None:
            tokens = F.gelu(self.expand(tokens))
        return self.head(tokens)

    @staticmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations for one sample; see ``Readout``."""
        hidden, width = shape.decoder.hidden, encoder.embed_dim
        return visible * (2 * width * shape.width if hidden is None else 2 * hidden * (width + shape.width))


class SummaryReadout(TokenReadout):
    """A linear layer or an MLP on the class token, or on the mean of the visible tokens where there is none."""

    def forward(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        drop_path: Tensor | None = None,
        levels: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Return the predictions (B, width); see ``Readout``."""
        pooled = encoded[:, 0] if self.has_cls else mean_tokens(encoded, cls_token=False)
        return self.predict(pooled.to(encoded.dtype))

    @staticmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations for one sample; see ``Readout``."""
        return TokenReadout.flops(shape, encoder, 1, 0)
