"""This module trains those heads of ``probe`` that see tokens, on the features of a frozen network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from mvd_ds.config import ConfigError, ProbeRecipe, ViewSettings
from mvd_ds.config.probing import VECTOR_HEADS, result_name
from mvd_ds.evaluation.head_training import Labelled, Training, train_heads
from mvd_ds.evaluation.probes import Probe
from mvd_ds.evaluation.token_store import FrozenStore, Maker, Share
from mvd_ds.models.classifiers.heads import HEADS, build_head
from mvd_ds.models.classifiers.tokens import ClipTokens
from mvd_ds.runs.probing.clips import Split, group_size, read_drawn, read_groups, shown
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.runs.probing.head_states import HeadStates
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress


def probe_tokens(
    name: str, encoder: ProbedEncoder, recipe: ProbeRecipe, known: Split, unseen: Split, cluster: Cluster, states: HeadStates
) -> dict[str, tuple[Probe, ...]]:
    """Train all token heads of a recipe on one network; return a probe for each label by name of the result. Collective.

    Args:
        name: name of the model.
        encoder: the frozen network.
        recipe: the probe run.
        known: training clips, all of which can be read.
        unseen: held-out clips.
        cluster: the processes.
        states: place of interrupted trainings.

    Raises:
        ConfigError: if a head does not fit the network, or all of them diverged.
    """
    heads = [head for head in recipe.heads if head not in VECTOR_HEADS]
    shape = encoder.shape(recipe.data.clip.frames, recipe.views_of(held_out=False).segments)
    share = Share(cluster.rank, cluster.world, cluster.sum, cluster.gather)
    with cluster.together():
        for head in heads:  # what does not fit is told before anything is computed
            build_head(head, shape, 2, recipe.head, 0)
        stores = _stores(heads, name, encoder, recipe, (known, unseen), share)
    labels = [split[0].labels[np.asarray(split[1])] for split in (known, unseen)]
    found: dict[str, tuple[Probe, ...]] = {}
    for head in heads:

        def build(classes: int, seed: int, head: str = head) -> nn.Module:
            return build_head(head, shape, classes, recipe.head, seed)

        progress: list[StepProgress] = []

        def tell(done: int, steps: int, head: str = head, bars: list[StepProgress] = progress) -> None:
            if not bars:
                bars.append(StepProgress(f"{head} heads of {name}", done - 1, steps, enabled=cluster.is_main))
            bars[0].update(done, "steps")

        try:
            probes = train_heads(
                build,
                Labelled(stores[0], labels[0], recipe.drawn.count if recipe.drawn is not None else 0),
                Labelled(stores[1], labels[1]),
                recipe,
                encoder.device,
                Training(len(encoder.blocks), recipe.views_of(held_out=True).crops, share, states.of(f"{name}.{head}"), tell),
            )
        finally:
            for bar in progress:
                bar.close()
        found |= {
            result_name(block, head): of_labels for block, of_labels in zip(encoder.names(name, recipe), probes, strict=True)
        }
    return found


def _stores(
    heads: Sequence[str], name: str, encoder: ProbedEncoder, recipe: ProbeRecipe, splits: tuple[Split, Split], share: Share
) -> list[FrozenStore]:
    """Return the features of training and held-out clips, kept if both fit into the memory that is set."""
    layers = any(HEADS[head].needs_layers for head in heads)
    views = [recipe.views_of(held_out) for held_out in (False, True)]
    clip = recipe.data.clip
    outline = torch.zeros((1, views[0].segments, 1, 3, clip.frames, clip.size_px, clip.size_px), dtype=torch.uint8)
    row = encoder.clip_tokens(outline, layers)
    one = sum(part.numel() * part.element_size() for part in row if part is not None)
    rows = 1 if recipe.drawn is None else 1 + recipe.drawn.count
    keep = one * (rows * len(splits[0][1]) + views[1].crops * len(splits[1][1])) <= recipe.head.keep_gib * 2**30
    return [
        FrozenStore(
            _maker(name, encoder, recipe, split, None if rows > 1 and not held_out else seen, layers),
            len(split[1]) * (1 if held_out else rows),
            keep,
            group_size(recipe, seen),
            encoder.device,
            share,
        )
        for held_out, (split, seen) in enumerate(zip(splits, views, strict=True))
    ]


def _maker(
    name: str, encoder: ProbedEncoder, recipe: ProbeRecipe, split: Split, views: ViewSettings | None, layers: bool
) -> Maker:
    """Return the function from groups of positions in a split, or of drawn rows of it (no views), to features of their clips."""
    every = 1 if views is not None or recipe.drawn is None else recipe.drawn.count + 1

    def make(groups: Sequence[Sequence[int]]) -> Iterator[ClipTokens]:
        read = read_groups(recipe, split, groups, views) if views is not None else read_drawn(recipe, split, groups)
        for rows, group in zip(groups, read, strict=True):
            places = [row // every for row in rows]
            if group.faults or not bool(group.ok.all()):
                reason = next(iter(group.faults), "a video")
                raise ConfigError(f"{reason}; it could be read when the probe began: start it again, heads go on where they were")
            yield encoder.clip_tokens(shown(group.clips, recipe.models[name], places, recipe.run.seed), layers)

    return make
