"""This module trains those heads of ``probe`` that see tokens, on the features of a frozen network."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from mvd_ds.config import ProbeRecipe
from mvd_ds.config.probing import result_name
from mvd_ds.evaluation.head_training import Labelled, Training, train_heads
from mvd_ds.evaluation.probes import Probe
from mvd_ds.models.classifiers.heads import HEADS, build_head
from mvd_ds.models.classifiers.tokens import TokenShape
from mvd_ds.runs.probing.clips import Split
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.runs.probing.head_states import HeadStates
from mvd_ds.runs.probing.order import parted, played
from mvd_ds.runs.probing.token_rows import Rows
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress

TOKEN_HEADS = tuple(HEADS)
"""Heads that this module has results of."""


class TokenProbes(NamedTuple):
    """The probes of the token heads of a recipe on one network, by name of the result."""

    labels: list[dict[str, tuple[Probe, ...]]]
    """Probes of the labels on held-out clips played in each way of ``order.played``."""
    told: dict[str, dict[str, tuple[Probe, ...]]]
    """Probes that tell plain clips from those played in a way of ``recipe.order``, by way."""


def probe_tokens(
    name: str, encoder: ProbedEncoder, recipe: ProbeRecipe, known: Split, unseen: Split, cluster: Cluster, states: HeadStates
) -> TokenProbes:
    """Train all token heads of a recipe on one network. Collective.

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
    heads = [head for head in recipe.heads if head in HEADS]
    shape = encoder.shape(recipe.data.clip.frames, recipe.views_of(held_out=False).segments)
    layers, ways = any(HEADS[head].needs_layers for head in heads), played(recipe)
    with cluster.together():
        for head in heads:  # what does not fit is told before anything is computed
            build_head(head, shape, 2, recipe.head, 0)
        rows = Rows(encoder, name, recipe, layers, (len(known[1]), len(unseen[1])), cluster)
        drawn = recipe.drawn.count if recipe.drawn is not None else 0
        sets: dict[str, tuple[Labelled, Labelled]] = {"": (rows.of_labels(known, drawn), rows.stacked(unseen, ways))}
    for way in recipe.order:
        sets[way] = (rows.pairs(known, way, held_out=False), rows.pairs(unseen, way, held_out=True))
    found: dict[str, dict[str, tuple[Probe, ...]]] = {way: {} for way in sets}
    for played_as, (training, held_out) in sets.items():
        for head in heads:
            probes = _trained(head, f"{head}.{played_as}" if played_as else head, training, held_out, rows, states, shape)
            for block, of_labels in zip(encoder.names(name, recipe), probes, strict=True):
                found[played_as][result_name(block, head)] = of_labels
        training.features.forget()
        held_out.features.forget()
    return TokenProbes(parted(found.pop(""), len(ways)), found)


def _trained(
    head: str, called: str, training: Labelled, held_out: Labelled, rows: Rows, states: HeadStates, shape: TokenShape
) -> list[tuple[Probe, ...]]:
    """Return the probes of one kind of head: for each block, one for each label."""
    recipe, encoder, progress = rows.recipe, rows.encoder, list[StepProgress]()

    def build(classes: int, seed: int) -> nn.Module:
        return build_head(head, shape, classes, recipe.head, seed)

    def tell(done: int, steps: int) -> None:
        if not progress:
            progress.append(StepProgress(f"{called} heads of {rows.name}", done - 1, steps, enabled=rows.cluster.is_main))
        progress[0].update(done, "steps")

    crops = recipe.views_of(held_out=True).crops
    surroundings = Training(len(encoder.blocks), crops, rows.share, states.of(f"{rows.name}.{called}"), tell)
    try:
        found = train_heads(build, training, held_out, recipe, encoder.device, surroundings)
        return [tuple(probe for probe in of_block if probe is not None) for of_block in found]
    finally:
        for bar in progress:
            bar.close()
