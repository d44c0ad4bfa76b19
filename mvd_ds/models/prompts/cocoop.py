"""CoCoOp: learned vectors beside the name of a class, shifted by the clip. Source: Zhou et al. 2022 (arXiv 2203.05557)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvd_ds.config import PromptSettings
from mvd_ds.models.linear import Linear
from mvd_ds.models.prompts.coop import CoOpHead
from mvd_ds.models.prompts.head import PromptBase, PromptInput, Stage

NARROWER = 16
"""Width of a clip's vector over that inside of the network that shifts. Source: CoCoOp."""


class CoCoOpHead(CoOpHead):
    """CoOp with vectors that a small network shifts by the clip's own vector: the same shift for all vectors of a clip.

    Args:
        base: the towers and the classes.
        settings: the vectors.
    """

    def __init__(self, base: PromptBase, settings: PromptSettings) -> None:
        super().__init__(base, settings)
        assert base.towers is not None
        width = base.towers.language.settings.embed_dim
        hidden = settings.hidden or max(width // NARROWER, 1)
        self.narrow = Linear(width, hidden)
        self.widen = Linear(hidden, base.towers.language.text.width)

    @staticmethod
    def has_own(settings: PromptSettings) -> bool:
        """Return False: classes share their vectors."""
        return False

    def forward(self, seen: PromptInput, classes: Sequence[int] | None = None, stage: Stage = "answer") -> Tensor:
        """Return fp32 logits; see ``PromptHead``."""
        assert seen.vectors is not None
        shift = self.widen(torch.relu(self.narrow(seen.vectors.to(self.narrow.weight.dtype))))
        texts = self.texts((self.vectors() + shift[:, None])[:, None], classes)
        logits = self.scale * (texts @ seen.vectors[:, :, None])[..., 0]
        return logits if stage == "answer" else logits[None]
