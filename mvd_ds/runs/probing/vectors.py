"""One pass over the clips of a split: one vector of every network and block for each, and which clips can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from mvd_ds.config import ProbeRecipe, ViewSettings
from mvd_ds.config.probing import VECTOR_HEADS
from mvd_ds.evaluation.features import Features, pixel_features
from mvd_ds.runs.probing.clips import ClipGroup, Split, in_order, pass_over, shown
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.training.cluster import Cluster


def read_vectors(
    recipe: ProbeRecipe,
    encoders: Mapping[str, ProbedEncoder],
    split: Split,
    views: ViewSettings,
    what: str,
    faults: list[str],
    cluster: Cluster,
    ways: Sequence[str] = ("all",),
) -> tuple[list[Features], Split]:
    """Return the vectors of those clips of ``split`` that could be read, and the split of these, on every process. Collective.

    Groups of clips do not depend on the number of processes, so neither do the numbers. Without a head that takes vectors the
    clips are only tried.

    Args:
        recipe: the probe run.
        encoders: the networks by name.
        split: the clips.
        views: views of each, over which vectors are averaged.
        what: names the clips on the terminal.
        faults: ``path: reason`` of every video that could not be read is appended here.
        cluster: the processes.
        ways: ways in which every clip is played, names of ``FRAMES``; there are vectors of each.
    """
    manifest, videos = split
    wanted = ways if set(recipe.heads) & set(VECTOR_HEADS) else ()

    def make(group: ClipGroup, places: range) -> tuple[list[dict[str, np.ndarray]], np.ndarray, np.ndarray]:
        found = [_vectors(recipe, encoders, group, places, way) for way in wanted]
        return found, group.labels.numpy().copy(), group.ok.numpy().copy()

    ordered = pass_over(recipe, split, views, f"features of {what}", faults, cluster, make)
    ok = np.concatenate([part[2] for part in ordered])
    labels = np.concatenate([part[1] for part in ordered])[ok]
    features = []
    for number in range(len(ways)):
        rows = [part[0][number] if part[0] else {} for part in ordered]
        vectors = {name: np.concatenate([row[name] for row in rows])[ok] for name in rows[0]}
        features.append(Features(vectors, labels, ok[ok]))
    return features, (manifest, [video for video, is_read in zip(videos, ok, strict=True) if is_read])


def _vectors(
    recipe: ProbeRecipe, encoders: Mapping[str, ProbedEncoder], group: ClipGroup, places: range, way: str
) -> dict[str, np.ndarray]:
    """Return float32 (B, D) by name of the result, of the clips as they are played."""
    found: dict[str, np.ndarray] = {}
    clips = in_order(group.clips, [way] * len(places), places, recipe.run.seed)
    for name, encoder in encoders.items():
        vectors = encoder.vectors(shown(clips, recipe.models[name], places, recipe.run.seed)).float().cpu().numpy()
        found |= dict(zip(encoder.names(name, recipe), vectors, strict=True))
    if recipe.pixels:
        found["pixels"] = _pixel_vectors(clips).numpy()
    return found


def _pixel_vectors(clips: Tensor) -> Tensor:
    return pixel_features(clips.flatten(0, 2)).unflatten(0, (len(clips), -1)).mean(dim=1)
