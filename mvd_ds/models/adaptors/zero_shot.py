"""A classifier without training: the vector of a clip in a teacher's space beside the vectors of that teacher's texts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.models.adaptors.adapted import AdaptedEncoder
from mvd_ds.models.adaptors.text_vectors import TextVectors


class AdaptedVectors(nn.Module):
    """The answers of one adaptor that gives one vector a clip.

    Args:
        adapted: the encoder with its adaptors.
        name: the adaptor.
    """

    def __init__(self, adapted: AdaptedEncoder, name: str) -> None:
        super().__init__()
        self.adapted, self.name = adapted, name

    def forward(self, clip: Tensor) -> Tensor:
        """Map normalised clips (B, C, T, H, W) to (B, width), fp32."""
        return self.adapted.adapt(self.name, clip)


class ZeroShotClassifier(nn.Module):
    """Logits that are scaled cosines of a clip's vector and each class's text vector. Source: CLIP.

    Args:
        network: maps normalised clips (B, C, T, H, W) to vectors (B, D) in the space of the texts.
        text: one vector for each class; kept in fp32, as the cosines are.
    """

    text: Tensor

    def __init__(self, network: nn.Module, text: TextVectors) -> None:
        super().__init__()
        self.network = network
        self.scale = text.scale
        self.register_buffer("text", text.vectors, persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the logits (B, classes), fp32."""
        unit = functional.normalize(self.network(clip).float(), dim=-1)
        return self.scale * unit @ self.text.mT
