"""Prompts as a network in training: vectors are all that it holds, and frozen towers stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvd_ds.models.prompts.classifier import PromptedClassifier
from mvd_ds.models.prompts.deep import values_of
from mvd_ds.models.prompts.head import PromptInput
from mvd_ds.models.prompts.metaprompt import MetaPromptHead

Wanted = Literal["answer", "learn", "prompts"]
"""The request to a learner."""


class Asked(NamedTuple):
    """The second half of an episode: classes that are asked for, after a move of the prompts of texts by the others."""

    classes: tuple[int, ...]
    """Their numbers."""
    move: Tensor
    """(blocks, M, D), taken off the prompts of texts; a constant, as episodes are of first order."""


class PromptLearner(nn.Module):
    """Clips -> logits, by a head of prompts on frozen towers that are no part of this module.

    So an engine shards, a checkpoint keeps and an average follows what is learned, a few thousand numbers; the towers are whole
    on every device, and no gradient or optimizer state is kept for them.

    Args:
        classifier: towers and head.
    """

    def __init__(self, classifier: PromptedClassifier) -> None:
        super().__init__()
        self._frozen = (classifier,)  # a tuple: the towers stay outside
        self.head = classifier.head

    @property
    def towers(self) -> nn.Module:
        """The frozen towers, to be moved to a device."""
        return self._frozen[0].towers

    def see(self, clip: Tensor) -> PromptInput:
        """Return what the head sees of normalised clips (B, C, T, H, W)."""
        return self._frozen[0].see(clip)

    def forward(self, clip: Tensor, stage: Wanted = "answer", asked: Sequence[Asked] = ()) -> Any:
        """Return fp32 logits (B, C) of normalised clips (B, C, T, H, W), or what else is wanted.

        Args:
            clip: the clips.
            stage: answer: logits; learn: a list of logits, those of every loss and of each episode; prompts: those of texts,
                (blocks, M, D), whatever the clips.
            asked: the episodes, of a head that has them; to learn by.
        """
        head = self.head
        if stage == "prompts":
            assert isinstance(head, MetaPromptHead)
            return torch.stack(values_of(head.text))
        seen = self.see(clip)
        if stage == "answer":
            return head(seen)
        learnt = [*head(seen, None, "learn")]
        for classes, move in asked:
            assert isinstance(head, MetaPromptHead) and seen.vectors is not None
            moved = [own - step for own, step in zip(values_of(head.text), move, strict=True)]
            learnt.append(head.by_texts(moved, seen.vectors, classes))
        return learnt
