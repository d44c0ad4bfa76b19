"""A class head on the visible tokens of a masked clip, beside the decoders.

Source: SupMAE (arXiv 2205.14540), mean of the visible patch tokens after the final norm, Linear, batch norm, ReLU, Linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import EncoderSettings, Grid, HeadShape
from mvd_ds.models.classifiers.pooling import mean_tokens
from mvd_ds.models.layers import NORM_EPS
from mvd_ds.models.linear import Linear
from mvd_ds.models.readouts.readout import Readout


class LabelledBatchNorm(nn.Module):
    """Batch norm whose statistics are those of the labelled rows of one micro batch on one device.

    Statistics are not shared by devices or micro batches, as published: another ``batch.micro`` is another training. Nor do they
    run: the head is of no use after training, and what it is read for meanwhile, it reads from a batch.

    Args:
        width: D.
        eps: added to the variance.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight 1 and bias 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, rows: Tensor, labelled: Tensor | None = None) -> Tensor:
        """Map (R, D) to (R, D) by the statistics of the rows ``labelled``, bool (R,); None: of all."""
        counted = rows.float()
        shares = torch.ones_like(counted[:, :1]) if labelled is None else labelled[:, None].float()
        shares = shares / shares.sum().clamp_min(1.0)
        mean = (shares * counted).sum(dim=0)
        variance = (shares * (counted - mean).square()).sum(dim=0)
        normed = (counted - mean) * (variance + self.eps).rsqrt()
        return (normed * self.weight.float() + self.bias.float()).to(rows.dtype)


class LabelHead(Readout):
    """Logits of the classes from the mean of the visible tokens of a clip; a class token is left out.

    Args:
        shape: number of classes, width of the hidden layer (``decoder.hidden``), and its ``norm``.
        encoder: settings of the encoder.
        grid: (t, h, w) token grid.
    """

    def __init__(self, shape: HeadShape, encoder: EncoderSettings, grid: Grid) -> None:
        super().__init__(shape, encoder, grid)
        assert shape.decoder.hidden is not None
        hidden = shape.decoder.hidden
        self.has_cls = encoder.cls_token
        self.expand = Linear(encoder.embed_dim, hidden)
        self.norm: nn.Module = LabelledBatchNorm(hidden) if shape.norm == "batch" else nn.LayerNorm(hidden, eps=NORM_EPS)
        self.head = Linear(hidden, shape.width)

    def forward(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        drop_path: Tensor | None = None,
        levels: tuple[Tensor, ...] = (),
        labelled: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, classes); see ``Readout``.

        Args:
            labelled: bool (B,), rows of which batch norm takes its statistics; None: all.
        """
        rows = self.expand(mean_tokens(encoded, self.has_cls).to(encoded.dtype))
        rows = self.norm(rows, labelled) if isinstance(self.norm, LabelledBatchNorm) else self.norm(rows)
        return self.head(F.relu(rows))

    @staticmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations for one sample; see ``Readout``."""
        return 2 * (shape.decoder.hidden or 0) * (encoder.embed_dim + shape.width)
