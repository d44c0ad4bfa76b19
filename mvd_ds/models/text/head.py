"""The space that clips and captions share: a vector of each, and the learned scale of their cosines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import ConfigError, EncoderSettings, LanguageSettings, TextSettings
from mvd_ds.files import one_line
from mvd_ds.models.layers import Block
from mvd_ds.models.linear import Linear
from mvd_ds.models.text.tower import TextTower

CLIPS, TEXTS, SCALE = "language.clips", "language.texts", "language.scale"
"""Names among the outputs of a student; with their dot they can be no target's."""


class CosineScale(nn.Module):
    """The logarithm of the factor of cosines, and for a sigmoid what is added to them."""

    def __init__(self, settings: LanguageSettings) -> None:
        super().__init__()
        of_loss = {"softmax": 1 / 0.07, "sigmoid": 10.0}[settings.loss]
        first = [math.log(settings.scale or of_loss), *([settings.bias] if settings.loss == "sigmoid" else [])]
        self.first = tuple(first)
        self.values = nn.Parameter(torch.empty(len(first)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set both to their first values; nothing is drawn."""
        with torch.no_grad():
            self.values.copy_(torch.tensor(self.first))

    def forward(self) -> Tensor:
        """Return both, fp32, as a tensor of its own: under ZeRO-3 the parameter is gathered during this call only."""
        return self.values.float() * 1.0


def text_projection(text: TextSettings, width: int, embed_dim: int) -> Linear:
    """Return the map from a tower's vectors (B, width) to the space of clips and texts; a SigLIP's has a bias.

    Raises:
        ConfigError: if the tower is of a folder, and that space is as wide as something else.
    """
    folder = text.folder
    if folder is not None and folder.embed_dim != embed_dim:
        raise ConfigError(
            f"language.embed_dim {embed_dim}: texts of language.text.weights {one_line(text.weights)} have vectors of "
            f"{folder.embed_dim}; set it to that"
        )
    return Linear(width, embed_dim, bias=folder is not None and folder.family != "clip")


class LanguageHead(nn.Module):
    """The text tower and the projections into the shared space.

    Args:
        settings: loss, width and text tower.
        encoder: the student's encoder.
    """

    def __init__(self, settings: LanguageSettings, encoder: EncoderSettings) -> None:
        super().__init__()
        self.settings, self.has_cls = settings, encoder.cls_token
        self.text = TextTower(settings.text, encoder)
        self.clip_projection = Linear(encoder.embed_dim, settings.embed_dim, bias=False)
        self.text_projection = text_projection(settings.text, self.text.width, settings.embed_dim)
        self.scale = CosineScale(settings)
        if settings.text.frozen:
            self.text.requires_grad_(False)
            self.text_projection.requires_grad_(False)

    def clips(self, encoded: Tensor) -> Tensor:
        """Return unit vectors (S, E), fp32, of the encoder's output (S, [1 +] V, D): of its class token, or of the mean."""
        pooled = encoded[:, 0] if self.has_cls else encoded.mean(dim=1)
        return functional.normalize(self.clip_projection(pooled).float(), dim=-1)

    def texts(self, numbers: Tensor, blocks: Sequence[Block] | nn.ModuleList) -> Tensor:
        """Return unit vectors (B, E), fp32, of texts, int64 (B, L); ``blocks`` are the student's."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.text.frozen):
            return functional.normalize(self.text_projection(self.text(numbers, blocks)).float(), dim=-1)

    def forward(self, encoded: Tensor, numbers: Tensor, blocks: Sequence[Block] | nn.ModuleList) -> dict[str, Tensor]:
        """Return (B, K, E) of clips under K masks, (B, E) of their captions, and the scale.

        Args:
            encoded: (B * K, [1 +] V, D), output of the encoder.
            numbers: int64 (B, L), the captions.
            blocks: the student's.
        """
        clips = self.clips(encoded).unflatten(0, (len(numbers), -1))
        return {CLIPS: clips, TEXTS: self.texts(numbers, blocks), SCALE: self.scale()}
