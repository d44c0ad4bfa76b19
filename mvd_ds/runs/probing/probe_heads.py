"""This module builds those heads of ``probe`` that see tokens, and trains them on the features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from mvd_ds.config import ProbedModel, ProbeRecipe
from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.evaluation.features import FRAMES
from mvd_ds.evaluation.head_training import FrozenStore, Maker, train_heads
from mvd_ds.evaluation.probes import Probe
from mvd_ds.models.classifiers.heads import HEADS, FrozenTokens, build_head, frozen_tokens
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.training.console import StepProgress
from mvd_ds.training.step import normalise, to_unit

Split = tuple[Manifest, Sequence[int]]
"""A manifest and videos of it, all of which can be read."""


def probe_tokens(
    head: str, name: str, encoder: VisionTransformer, model: ProbedModel, recipe: ProbeRecipe, known: Split, unseen: Split
) -> tuple[Probe, ...]:
    """Train one kind of token head on one encoder and return a probe for each label.

    Args:
        head: a name of ``HEADS``.
        name: name of the model.
        encoder: frozen, on its device.
        model: settings of the frames that it is shown.
        recipe: the probe run.
        known: training clips.
        unseen: held-out clips.
    """
    device = next(encoder.parameters()).device

    def build(classes: int, seed: int) -> nn.Module:
        return build_head(head, encoder, classes, recipe.head, seed)

    # Both stores together stay within the setting.
    total = len(known[1]) + len(unseen[1])
    stores = [
        FrozenStore(
            _maker(head, encoder, model, recipe, split), len(split[1]), recipe.head.keep_gib * 2**30 * len(split[1]) / total
        )
        for split in (known, unseen)
    ]
    labels = [split[0].labels[np.asarray(split[1])] for split in (known, unseen)]
    progress: list[StepProgress] = []

    def tell(done: int, steps: int) -> None:
        if not progress:
            progress.append(StepProgress(f"{head} heads of {name}", 0, steps, enabled=True))
        progress[0].update(done, "steps")

    try:
        return train_heads(build, stores[0], labels[0], stores[1], labels[1], recipe, device, tell)
    finally:
        for bar in progress:
            bar.close()


def _maker(head: str, encoder: VisionTransformer, model: ProbedModel, recipe: ProbeRecipe, split: Split) -> Maker:
    """Return the function from groups of positions in a split to the same groups with the encoder's features of their clips."""
    manifest, videos = split
    device, clip = next(encoder.parameters()).device, recipe.data.clip
    stride = model.every_frames if encoder.settings.kind == "image" else 1

    def make(groups: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], FrozenTokens]]:
        wanted = [videos[place] for group in groups for place in group]
        shown = FRAMES[model.frames]
        batches = evaluation_batches(recipe.data, manifest, len(groups[0]), clip.frames, clip.size_px, wanted)
        for places, (batch, _, _) in zip(groups, batches, strict=True):
            clips = torch.cat([shown(batch[row : row + 1], place, recipe.run.seed) for row, place in enumerate(places)])
            pixels = normalise(to_unit(clips[:, :, ::stride].to(device)), torch.float32)
            yield places, frozen_tokens(encoder, pixels, layers=HEADS[head].needs_layers)

    return make
