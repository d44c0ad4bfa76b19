"""The interface of frozen networks, and what the table of families knows of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from mvd_ds.config import Grid, TeacherSettings, TrainingRecipe
from mvd_ds.models.blueprint import Blueprint


class FrozenNetwork(Protocol):
    """A network of any family as a teacher uses it.

    It is no ``nn.Module`` itself: its parameters have the names that they have in ``module``.
    """

    @property
    def module(self) -> nn.Module:
        """The network without what is not read."""

    @property
    def embed_dim(self) -> int:
        """D, width of a token."""

    @property
    def grid(self) -> Grid:
        """(t, h, w) token grid of one input; t = 1 for a network that sees single frames."""

    @property
    def input_mean(self) -> tuple[float, ...]:
        """Mean of each colour of the pixels that it was trained on, in [0, 1]."""

    @property
    def input_std(self) -> tuple[float, ...]:
        """Their standard deviation."""

    @property
    def blocks(self) -> list[int]:
        """Blocks that are read, ascending."""

    @property
    def is_selective(self) -> bool:
        """True if ``tokens`` saves work where only some tokens are wanted."""

    def tokens(self, clip: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return the mean over the blocks that are read, without class and register tokens.

        Args:
            clip: (B, C, T, H, W) normalised by ImageNet's mean and deviation, T = 1 for a network that sees single frames.
            wanted: (B', M) indices into the tokens of B / B' neighbouring inputs, side by side; only for a selective network.

        Returns:
            (B, N, D), or (B', M, D).
        """


class PlannedNetwork(NamedTuple):
    """A network whose weights were found to fit, before it takes memory."""

    blueprint: Blueprint[Any]
    """The module, built whole or part by part."""
    adapt: Callable[[nn.Module], FrozenNetwork]
    """Wraps the module and takes off it what is not read."""
    has_final_norm: bool
    """False for a file that has no norm after its last block."""


class Family(NamedTuple):
    """A row of ``NETWORKS``: how a family of networks is built and counted."""

    plan: Callable[[TeacherSettings, int, int, int, str], PlannedNetwork]
    """(settings, frames, side in px, seed, origin for messages) -> the network."""
    outline: Callable[[TeacherSettings, int, int], tuple[nn.Module, int]]
    """(settings, frames, side in px) -> the module on the meta device without what is not read, and its number of blocks."""
    flops: Callable[[TrainingRecipe, TeacherSettings], int]
    """(recipe, settings) -> operations of a forward for one clip."""
