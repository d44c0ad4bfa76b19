"""Heads of prompts: the towers they stand on, the inputs they see of a clip, and the answers they give."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from mvd_ds.config import PromptSettings
from mvd_ds.models.prompts.texts import ClassNames
from mvd_ds.models.text.captioned import CaptionedEncoder, Encode
from mvd_ds.models.vit import VisionTransformer

Stage = Literal["answer", "learn", "episode"]
"""The request: logits; those of every loss; those of an episode's loss."""


class PromptInput(NamedTuple):
    """The inputs of heads of prompts of B clips, none of which depends on anything learned."""

    vectors: Tensor | None = None
    """Unit vectors (B, E), fp32, of the clips without prompts."""
    embedded: Tensor | None = None
    """Tokens (B, [1 +] [R +] N, D) before the first block."""


class PromptBase(NamedTuple):
    """The ground that prompts are learned on: frozen towers, and the classes of a label."""

    encoder: VisionTransformer
    names: ClassNames
    towers: CaptionedEncoder | None = None
    """The encoder and its text tower; None where it has learnt from no captions."""
    encode: Encode | None = None
    """Makes rows of tokens of texts; None without a text tower."""


class PromptHead(nn.Module, abc.ABC):
    """A head that learns vectors for frozen towers: a row of ``PROMPTS``. Its parameters are what is learned, and nothing else.

    Args:
        base: the towers and the classes.
        settings: the prompts.

    Raises:
        ConfigError: if the towers do not take them.
    """

    needs_words: ClassVar[bool] = True
    """True if it reads the names of classes."""
    needs_tokens: ClassVar[bool] = False
    """True if it sees the tokens before the first block."""
    has_episodes: ClassVar[bool] = False
    """True if it learns in episodes, too."""
    losses: ClassVar[tuple[str, ...]] = ("class",)
    """Names of the losses that it learns by, that of its answer first."""

    def __init__(self, base: PromptBase, settings: PromptSettings) -> None:
        super().__init__()

    @property
    def answers_new(self) -> bool:
        """True if it can tell classes apart that it has not seen, by their names."""
        return self.needs_words

    def start(self) -> None:
        """Set those initial vectors that are not drawn."""

    @abc.abstractmethod
    def forward(self, seen: PromptInput, classes: Sequence[int] | None = None, stage: Stage = "answer") -> Tensor:
        """Return fp32 logits (B, C) among some classes, or (losses, B, C) to learn by.

        Args:
            seen: B clips.
            classes: numbers of the classes (None: all).
            stage: what is asked for.
        """
