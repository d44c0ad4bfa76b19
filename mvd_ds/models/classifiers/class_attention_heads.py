"""Heads of probes that gather the tokens of a frozen encoder by class queries."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mvd_ds.config import HeadSettings, PoolingSettings
from mvd_ds.models.classifiers.class_attention import NORM_EPS, ClassAttention
from mvd_ds.models.classifiers.classifier import ClassHead
from mvd_ds.models.classifiers.tokens import FrozenTokens, TokenShape


class OneQueryHead(nn.Module):
    """One class query gathers all tokens in one head, then a norm and a linear layer. Source: PatchConvNet.

    Args:
        width: D.
        classes: number of classes.
        queries: number of queries: one, or one for each class.
    """

    needs_layers: ClassVar[bool] = False

    @classmethod
    def on(cls, shape: TokenShape, classes: int, settings: HeadSettings) -> OneQueryHead:
        """Return a head for tokens of a shape."""
        return cls(shape.width, classes)

    def __init__(self, width: int, classes: int, queries: int = 1) -> None:
        super().__init__()
        self.attention = ClassAttention(width, queries, PoolingSettings().layer_scale)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = ClassHead(width, classes)

    def forward(self, frozen: FrozenTokens) -> Tensor:
        """Return (B, classes) logits."""
        return self.head(self._gathered(frozen))

    def _gathered(self, frozen: FrozenTokens) -> Tensor:
        """Return what the query gathered, (B, D)."""
        return self.norm(self.attention(frozen.tokens))[:, 0]


class ClassQueriesHead(OneQueryHead):
    """One query for each class, each with a linear layer of its own. Source: PatchConvNet, multi-class variant."""

    @classmethod
    def on(cls, shape: TokenShape, classes: int, settings: HeadSettings) -> ClassQueriesHead:
        """Return a head for tokens of a shape."""
        return cls(shape.width, classes, classes)

    def _gathered(self, frozen: FrozenTokens) -> Tensor:
        """Return what the queries gathered, (B, classes, D)."""
        return self.norm(self.attention(frozen.tokens))
