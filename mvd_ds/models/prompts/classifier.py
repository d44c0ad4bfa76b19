"""A classifier of clips: frozen towers, and a head of prompts that was trained on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvd_ds.models.prompts.head import PromptBase, PromptHead, PromptInput
from mvd_ds.models.text.captioned import CaptionedEncoder
from mvd_ds.models.vit import VisionTransformer


def prompt_input(towers: CaptionedEncoder | None, encoder: VisionTransformer, clip: Tensor, with_tokens: bool) -> PromptInput:
    """Return what heads of prompts see of normalised clips (B, C, T, H, W).

    Args:
        towers: the towers, for the vectors of clips; None where there is no text tower.
        encoder: the encoder.
        clip: the clips.
        with_tokens: whether the tokens before the first block are wanted.
    """
    vectors = None if towers is None else towers.language.clips(encoder(clip))
    return PromptInput(vectors, encoder.embed(clip) if with_tokens else None)


class PromptedClassifier(nn.Module):
    """Clips -> logits. The towers are frozen, and the head is all that learns.

    Args:
        base: the towers and the classes.
        head: on them.
        among: numbers of the classes that are told apart (None: all).
    """

    def __init__(self, base: PromptBase, head: PromptHead, among: Sequence[int] | None = None) -> None:
        super().__init__()
        self.towers: nn.Module = base.towers if base.towers is not None else base.encoder
        self.towers.requires_grad_(False)
        self.among = among
        self.head = head

    @property
    def encoder(self) -> VisionTransformer:
        """The frozen encoder."""
        found = self.towers.encoder if isinstance(self.towers, CaptionedEncoder) else self.towers
        assert isinstance(found, VisionTransformer)
        return found

    def see(self, clip: Tensor) -> PromptInput:
        """Return what the head sees of normalised clips (B, C, T, H, W)."""
        towers = self.towers if isinstance(self.towers, CaptionedEncoder) else None
        with torch.no_grad():
            return prompt_input(towers, self.encoder, clip, self.head.needs_tokens)

    def forward(self, clip: Tensor) -> Tensor:
        """Return fp32 logits (B, C) of normalised clips (B, C, T, H, W)."""
        return self.head(self.see(clip), self.among, "answer")
