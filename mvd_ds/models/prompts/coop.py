"""CoOp: learned vectors beside the name of a class. Source: Zhou et al. 2022 (arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvd_ds.config import PromptSettings
from mvd_ds.models.embed import LearnedToken
from mvd_ds.models.prompts.deep import STD
from mvd_ds.models.prompts.head import PromptBase, PromptHead, PromptInput, Stage
from mvd_ds.models.prompts.texts import PromptedTexts, start_vectors


class CoOpHead(PromptHead):
    """Scaled cosines between clips and texts, whose vectors beside the names are learned: the same for all classes, or own ones.

    Args:
        base: the towers and the classes.
        settings: the vectors.
    """

    def __init__(self, base: PromptBase, settings: PromptSettings) -> None:
        super().__init__(base, settings)
        assert base.towers is not None and base.encode is not None
        self.scale = base.towers.scale
        self._first = None if settings.start is None else start_vectors(base.towers, base.encode, settings.start)
        count = settings.context if self._first is None else len(self._first)
        self.rows = len(base.names.classes) if self.has_own(settings) else 1
        self.texts = PromptedTexts(base.towers, base.encode, base.names, count, settings.place == "middle")
        self.context = LearnedToken(base.towers.language.text.width, STD, tokens=self.rows * count)

    @staticmethod
    def has_own(settings: PromptSettings) -> bool:
        """Return whether each class has vectors of its own."""
        return settings.per_class

    @property
    def answers_new(self) -> bool:
        """True if all classes share their vectors."""
        return self.rows == 1

    @torch.no_grad()
    def start(self) -> None:
        """Start from the tokens of ``prompt.start``."""
        if self._first is not None:
            self.context.weight.copy_(self._first.repeat(self.rows, 1)[None])

    def vectors(self) -> Tensor:
        """Return the learned vectors, (M, D) or (classes, M, D)."""
        found = self.context(1, -1)[0]
        return found if self.rows == 1 else found.unflatten(0, (self.rows, -1))

    def forward(self, seen: PromptInput, classes: Sequence[int] | None = None, stage: Stage = "answer") -> Tensor:
        """Return fp32 logits; see ``PromptHead``."""
        assert seen.vectors is not None
        logits = self.scale * seen.vectors @ self.texts(self.vectors(), classes).mT
        return logits if stage == "answer" else logits[None]
