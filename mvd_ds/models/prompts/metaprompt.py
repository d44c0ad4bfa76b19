"""MetaPrompt: deep prompts in both towers, learned by three losses and in episodes. Source: Zhao et al., TIP 2024."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, PromptSettings
from mvd_ds.models.prompts.deep import blocks_with_prompts, deep_vectors, encode_with, values_of
from mvd_ds.models.prompts.head import PromptBase, PromptHead, PromptInput, Stage
from mvd_ds.models.prompts.texts import PromptedTexts, plain_vectors, replaced

TEXT = "text."
"""Prefix of the parameters that episodes move."""


class MetaPromptHead(PromptHead):
    """Prompted clips beside plain texts, and plain clips beside prompted texts; the answer is the mean of both logits.

    Args:
        base: the towers and the classes.
        settings: the vectors.
    """

    needs_tokens: ClassVar[bool] = True
    has_episodes: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("class", "clips", "texts")
    plain: Tensor

    def __init__(self, base: PromptBase, settings: PromptSettings) -> None:
        super().__init__(base, settings)
        assert base.towers is not None and base.encode is not None
        towers = base.towers
        if towers.encoder.settings.kind != "video":
            raise ConfigError("heads: metaprompt puts prompts into encoders of clips, and this one sees frames")
        self._towers = (towers,)
        self.scale = towers.scale
        vision = blocks_with_prompts(settings.blocks, towers.encoder.settings.depth, "the encoder")
        text = blocks_with_prompts(settings.blocks, towers.language.text.depth, "the text tower")
        self.vision = deep_vectors(towers.encoder.settings.embed_dim, settings.deep, vision)
        self.text = deep_vectors(towers.language.text.width, settings.deep, text)
        self.texts = PromptedTexts(towers, base.encode, base.names, settings.deep)
        self.register_buffer("plain", plain_vectors(towers, base.encode, base.names), persistent=False)

    def forward(self, seen: PromptInput, classes: Sequence[int] | None = None, stage: Stage = "answer") -> Tensor:
        """Return fp32 logits; to learn by, those of both together, of prompted clips and of prompted texts."""
        assert seen.vectors is not None
        of_texts = self.by_texts(values_of(self.text), seen.vectors, classes)
        if stage == "episode":
            return of_texts[None]
        assert seen.embedded is not None
        (towers,) = self._towers
        clips = towers.language.clips(encode_with(towers.encoder, seen.embedded, values_of(self.vision)))
        plain = self.plain if classes is None else self.plain[list(classes)]
        of_clips = self.scale * clips @ plain.to(clips.dtype).mT
        both = (of_clips + of_texts) / 2
        return both if stage == "answer" else torch.stack((both, of_clips, of_texts))

    def by_texts(self, prompts: Sequence[Tensor], vectors: Tensor, classes: Sequence[int] | None = None) -> Tensor:
        """Return fp32 logits (B, C) of plain clips and of texts with these prompts, which may be any.

        Args:
            prompts: (M, D) for each block, in place of the learned ones.
            vectors: unit vectors (B, E) of the clips.
            classes: numbers of the classes (None: all).
        """
        return self.scale * vectors @ self.texts(prompts[0], classes, replaced(prompts, self.texts.first)).mT
