"""VPT: deep prompts in the encoder alone, and a linear layer on its vector. Source: Jia et al. 2022 (arXiv 2203.12119)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from mvd_ds.config import ConfigError, PromptSettings
from mvd_ds.models.linear import Linear
from mvd_ds.models.prompts.deep import blocks_with_prompts, deep_vectors, encode_with, values_of
from mvd_ds.models.prompts.head import PromptBase, PromptHead, PromptInput, Stage


class VptHead(PromptHead):
    """A linear layer on the class token, or on the mean of the tokens where there is none, of an encoder with prompts.

    Args:
        base: the encoder and the classes.
        settings: the vectors.
    """

    needs_words: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = True

    def __init__(self, base: PromptBase, settings: PromptSettings) -> None:
        super().__init__(base, settings)
        shape = base.encoder.settings
        if shape.kind != "video":
            raise ConfigError("heads: vpt puts prompts into encoders of clips, and this one sees frames")
        self._encoder = (base.encoder,)
        self.vision = deep_vectors(
            shape.embed_dim, settings.deep, blocks_with_prompts(settings.blocks, shape.depth, "the encoder")
        )
        self.head = Linear(shape.embed_dim, len(base.names.classes))

    def forward(self, seen: PromptInput, classes: Sequence[int] | None = None, stage: Stage = "answer") -> Tensor:
        """Return fp32 logits; see ``PromptHead``."""
        assert seen.embedded is not None
        (encoder,) = self._encoder
        tokens = encode_with(encoder, seen.embedded, values_of(self.vision))
        pooled = tokens[:, 0] if encoder.settings.cls_token else tokens.mean(dim=1)
        logits = self.head(pooled.to(self.head.weight.dtype)).float()
        logits = logits if classes is None else logits[:, list(classes)]
        return logits if stage == "answer" else logits[None]
