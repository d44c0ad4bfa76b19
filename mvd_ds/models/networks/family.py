"""The interface of frozen networks, and what the table of families knows of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from mvd_ds.config import Grid, TeacherSettings, TrainingRecipe
from mvd_ds.models.blueprint import Blueprint


class Reads(NamedTuple):
    """The parts of a pass through a frozen network that are read; blocks count from 0."""

    blocks: tuple[int, ...] = ()
    """Blocks whose patch tokens are read, ascending."""
    through_norm: bool = False
    """True to take tokens and summaries through the network's final norm."""
    summaries: tuple[int, ...] = ()
    """Blocks whose own summaries are read."""
    qkv: tuple[int, ...] = ()
    """Blocks whose queries, keys and values are read."""
    attention: tuple[int, ...] = ()
    """Blocks whose attention rows are read."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Blocks whose output is looked at, ascending."""
        return tuple(sorted({*self.blocks, *self.summaries}))

    @property
    def last(self) -> int:
        """The last block that anything is read of; those behind it need not run."""
        return max((*self.blocks, *self.summaries, *self.qkv, *self.attention))

    @property
    def is_one_block(self) -> bool:
        """True if the tokens of a single block are all that is read."""
        return len(self.blocks) == 1 and not (self.summaries or self.qkv or self.attention)


class Reading(NamedTuple):
    """The parts of a pass that were read, by block; class and register tokens are in none of them."""

    tokens: dict[int, Tensor]
    """(B, N, D), or the wanted (B', M, D)."""
    summaries: dict[int, Tensor] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    """(B, D): the class token, or what a network that ends with a pooling of its own makes of the tokens."""
    qkv: dict[int, Tensor] = {}  # noqa: RUF012
    """(B, N, 3, heads, d): queries, keys and values."""
    attention: dict[int, Tensor] = {}  # noqa: RUF012
    """(B, N): attention that each token gets, from the class token or, where there is none, from the mean query; over heads."""


def reads_of(settings: TeacherSettings, count: int) -> Reads:
    """Return what a teacher's targets read of a network of ``count`` blocks."""
    read: dict[str, set[int]] = {"tokens": set(), "summary": set(), "relations": set()}
    for target in settings.targets.values():
        pooled = target.kind == "summary" and target.summary == "mean"
        kinds = ("tokens", "summary") if target.kind == "prototypes" else (target.kind,)
        for kind in ("tokens",) if pooled else kinds:
            read[kind if kind in read else "tokens"] |= {block % count for block in target.blocks}
    through_norm = any(target.norm == "final" for target in settings.targets.values())
    blocks, summaries, qkv = (tuple(sorted(found)) for found in read.values())
    return Reads(blocks, through_norm, summaries, qkv, settings.attention_blocks(count))


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
    def reads(self) -> Reads:
        """The parts of a pass that are read."""

    @property
    def block_count(self) -> int:
        """Number of its blocks before any was dropped, to which negative numbers of blocks refer."""

    @property
    def is_selective(self) -> bool:
        """True if ``read`` saves work where only some tokens are wanted."""

    def read(self, clip: Tensor, wanted: Tensor | None = None) -> Reading:
        """Run the network once and return what ``reads`` names.

        Args:
            clip: (B, C, T, H, W) normalised by ImageNet's mean and deviation, T = 1 for a network that sees single frames.
            wanted: (B', M) indices into the tokens of B / B' neighbouring inputs, side by side; only for a selective network.
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
    peak: Callable[[TrainingRecipe, TeacherSettings], int] | None = None
    """(recipe, settings) -> numbers that a forward holds at once for one clip; None: 10 for each channel of a token."""
    gives_attention: bool = False
    """True if a network of this family gives ``Reading.attention``, which masks may be drawn from."""
