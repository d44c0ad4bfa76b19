"""The tokens of frozen encoders that heads take, and their shape."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mvd_ds.models.vit import VisionTransformer


class FrozenTokens(NamedTuple):
    """The tokens of a frozen encoder that heads take; image encoders have the tokens of all frames in N."""

    tokens: Tensor
    """(B, N, D) after the final norm; class tokens come first, one for each frame of an image encoder."""
    keys_values: Tensor | None = None
    """(B, layers, N, 2, heads, d): keys and values of every layer's attention."""


class ClipTokens(NamedTuple):
    """The tokens of all blocks that are probed, and of all views of a clip."""

    tokens: Tensor
    """(B, blocks, views, N, D), as in ``FrozenTokens``; clips of a video that a view joins are side by side in N."""
    keys_values: Tensor | None = None
    """(B, views, layers, N, 2, heads, d)."""

    def seen(self, block: int, view: int) -> FrozenTokens:
        """Return what a head on a block sees of a view, by their positions."""
        return FrozenTokens(self.tokens[:, block, view], None if self.keys_values is None else self.keys_values[:, view])


class TokenShape(NamedTuple):
    """The shape of an encoder's tokens, on which heads are built."""

    width: int
    """D."""
    heads: int
    """Attention heads of the encoder."""
    class_tokens: int = 0
    """Class tokens, which come first."""
    encoder: VisionTransformer | None = None
    """The encoder itself where it is one of ours, for heads that look at its layers."""

    @classmethod
    def of(cls, encoder: VisionTransformer, frames: int) -> TokenShape:
        """Return the shape of the tokens of clips of ``frames`` frames."""
        settings = encoder.settings
        inputs = frames if settings.kind == "image" else 1
        return cls(settings.embed_dim, settings.num_heads, inputs * settings.cls_token, encoder)
