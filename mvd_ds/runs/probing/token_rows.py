"""The rows of tokens that heads are trained and asked on: clips of a split, drawn views of them, and clips played otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mvd_ds.config import ConfigError, ProbeRecipe, ViewSettings
from mvd_ds.evaluation.head_training import Labelled
from mvd_ds.evaluation.token_store import FrozenStore, Maker, Share
from mvd_ds.models.classifiers.tokens import ClipTokens
from mvd_ds.runs.probing.clips import Split, group_size, in_order, read_drawn, read_groups, shown
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.runs.probing.order import PLAIN, pair_labels, played
from mvd_ds.training.cluster import Cluster


class Row(NamedTuple):
    """A row of features."""

    place: int
    """Position of the clip in its split."""
    way: str = PLAIN
    """How it is played."""


class Rows:
    """The rows of features of one network; those of one training at a time are kept, if they fit into the memory that is set.

    Args:
        encoder: the frozen network.
        name: its name.
        recipe: the probe run.
        layers: whether keys and values of all layers are wanted.
        clips: numbers of training and of held-out clips.
        cluster: the processes.
    """

    def __init__(
        self, encoder: ProbedEncoder, name: str, recipe: ProbeRecipe, layers: bool, clips: tuple[int, int], cluster: Cluster
    ) -> None:
        self.encoder, self.name, self.recipe, self.layers, self.cluster = encoder, name, recipe, layers, cluster
        self.share = Share(cluster.rank, cluster.world, cluster.sum, cluster.gather)
        drawn, crops = (0 if recipe.drawn is None else recipe.drawn.count), recipe.views_of(held_out=True).crops
        self._of_labels = self._fits((1 + drawn) * clips[0] + crops * len(played(recipe)) * clips[1])
        self._of_pairs = self._fits(2 * clips[0] + 2 * crops * clips[1])

    def of_labels(self, known: Split, drawn: int) -> Labelled:
        """Return the training clips: for each the plain row, then its drawn ones."""
        every, labels = drawn + 1, known[0].labels[np.asarray(known[1])]
        views = None if drawn else self.recipe.views_of(held_out=False)
        store = self._store(known, views, every * len(known[1]), lambda row: Row(row // every), self._of_labels)
        return Labelled(store, labels, drawn)

    def stacked(self, unseen: Split, ways: Sequence[str]) -> Labelled:
        """Return the held-out clips played one way, then the next, each with its labels."""
        count, labels = len(unseen[1]), unseen[0].labels[np.asarray(unseen[1])]
        views = self.recipe.views_of(held_out=True)
        store = self._store(unseen, views, len(ways) * count, lambda row: Row(row % count, ways[row // count]), self._of_labels)
        return Labelled(store, np.concatenate([labels] * len(ways)))

    def pairs(self, split: Split, way: str, held_out: bool) -> Labelled:
        """Return two rows a clip, labelled 0 as it is and 1 as it is played in a way."""
        count, views = len(split[1]), self.recipe.views_of(held_out)
        store = self._store(split, views, 2 * count, lambda row: Row(row // 2, way if row % 2 else PLAIN), self._of_pairs)
        return Labelled(store, pair_labels(count), rows_per_clip=2)

    def _store(self, split: Split, views: ViewSettings | None, rows: int, find: Callable[[int], Row], keep: bool) -> FrozenStore:
        """Return the features of so many rows."""
        size = group_size(self.recipe, views or self.recipe.views_of(held_out=False))
        return FrozenStore(self._maker(split, views, find), rows, keep, size, self.encoder.device, self.share)

    def _fits(self, rows: int) -> bool:
        """Return whether the features of so many rows of one crop fit into the memory that is set."""
        clip, segments = self.recipe.data.clip, self.recipe.views_of(held_out=False).segments
        outline = torch.zeros((1, segments, 1, 3, clip.frames, clip.size_px, clip.size_px), dtype=torch.uint8)
        row = self.encoder.clip_tokens(outline, self.layers)
        one = sum(part.numel() * part.element_size() for part in row if part is not None)
        return one * rows <= self.recipe.head.keep_gib * 2**30

    def _maker(self, split: Split, views: ViewSettings | None, find: Callable[[int], Row]) -> Maker:
        """Return the function from groups of rows to their features; without views they are those of ``read_drawn``."""
        recipe, encoder, model = self.recipe, self.encoder, self.recipe.models[self.name]

        def make(groups: Sequence[Sequence[int]]) -> Iterator[ClipTokens]:
            found = [[find(row) for row in group] for group in groups]
            places = [[row.place for row in group] for group in found]
            read = read_drawn(recipe, split, groups) if views is None else read_groups(recipe, split, places, views)
            for rows, group in zip(found, read, strict=True):
                if group.faults or not bool(group.ok.all()):
                    reason = next(iter(group.faults), "a video")
                    raise ConfigError(
                        f"{reason}; it could be read when the probe began: start it again, heads go on where they were"
                    )
                here = [row.place for row in rows]
                clips = in_order(group.clips, [row.way for row in rows], here, recipe.run.seed)
                yield encoder.clip_tokens(shown(clips, model, here, recipe.run.seed), self.layers)

        return make
