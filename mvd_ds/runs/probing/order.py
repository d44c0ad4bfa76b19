"""Tests of the sense of time: clips played as they are, backwards, or with their frames in random order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvd_ds.config import ProbeRecipe
from mvd_ds.evaluation.features import Features
from mvd_ds.evaluation.probes import Probe, accuracy_interval, paired_interval
from mvd_ds.training.console import say

#: The clip as it is, before the ways of ``recipe.order``.
PLAIN = "all"
#: Added to the seed of shuffled frames, so that a model that is shown shuffled frames by itself draws other orders.
SEED_OF_ORDER = 1_000_003

Probes = Mapping[str, tuple[Probe, ...]]
"""Probes by name of the result, in the order of the labels."""


def played(recipe: ProbeRecipe) -> tuple[str, ...]:
    """Return the ways in which held-out clips are played, the plain one first."""
    return (PLAIN, *recipe.order)


def stacked(ways: Sequence[Features]) -> Features:
    """Return the rows of all clips played one way, then those of the next, each with the clip's labels."""
    names = ways[0].features
    return Features(
        {name: np.concatenate([way.features[name] for way in ways]) for name in names},
        np.concatenate([way.labels for way in ways]),
        np.concatenate([way.ok for way in ways]),
    )


def pairs(plain: Features, changed: Features) -> Features:
    """Return two neighbouring rows a clip, labelled 0 as it is and 1 as it was changed."""
    features = {
        name: np.stack([rows, changed.features[name]], axis=1).reshape(2 * len(rows), -1) for name, rows in plain.features.items()
    }
    return Features(features, pair_labels(len(plain.labels)), np.repeat(plain.ok, 2), rows_per_clip=2)


def pair_labels(clips: int) -> np.ndarray:
    """Return 0, 1, 0, 1, ... of so many clips, int64 (2 * clips, 1)."""
    return np.tile(np.array([[0], [1]], np.int64), (clips, 1))


def parted(probes: Probes, ways: int) -> list[dict[str, tuple[Probe, ...]]]:
    """Return the probes of rows of ``stacked`` as those of each way, the first of them the plain one."""
    return [{name: tuple(_part(one, way, ways) for one in found) for name, found in probes.items()} for way in range(ways)]


def _part(probe: Probe, way: int, ways: int) -> Probe:
    def cut(rows: np.ndarray) -> np.ndarray:
        return np.split(rows, ways, axis=1)[way]

    correct = cut(probe.correct)
    return probe._replace(
        top1=float(correct.mean()),
        per_seed=tuple(correct.mean(1).tolist()),
        correct=correct,
        classes=None if probe.classes is None else cut(probe.classes),
        shares=None if probe.shares is None else cut(probe.shares),
    )


def order_results(
    recipe: ProbeRecipe, labels: tuple[str, ...], told: Mapping[str, Probes], changed: Mapping[str, Probes]
) -> dict[str, Any]:
    """Return what ``probes.json`` says of the sense of time, by name of the result and way of playing.

    Args:
        recipe: the probe run.
        labels: names of the labels.
        told: probes that tell plain clips from changed ones, by way.
        changed: probes of the labels on changed clips, by way.

    Returns:
        ``told``: share of plain and changed clips that are told apart rightly, with its interval over clips and seeds;
        ``labels``: top-1 of each label on changed clips, with its interval.
    """
    found: dict[str, dict[str, Any]] = {}
    for way in recipe.order:
        for name, (probe, *_) in told[way].items():
            # Both rows of a clip are one sample: they are resampled together.
            shares = probe.correct.reshape(len(probe.correct), -1, 2).mean(2)
            interval = paired_interval(shares, np.zeros_like(shares), recipe.bootstrap_draws)
            of_labels = {}
            for label, one in zip(labels, changed[way][name], strict=True):
                own = accuracy_interval(one.correct, recipe.bootstrap_draws)
                of_labels[label] = {"top1": own.difference, "interval": [own.low, own.high]}
            apart = {"top1": interval.difference, "interval": [interval.low, interval.high], "chance": 0.5}
            found.setdefault(name, {})[way] = {"told": apart, "labels": of_labels}
    return found


def say_order(recipe: ProbeRecipe, found: Mapping[str, Any]) -> None:
    """Print how well each way of playing is told from the plain one."""
    if not found:
        return
    say("clips told from the same ones" + "".join(f"{way:>22}" for way in recipe.order) + "   (no sense of order: 0.500)")
    for name, ways in found.items():
        cells = [ways[way]["told"] for way in recipe.order]
        shown = [f"{one['top1']:.3f} ({one['interval'][0]:.3f} to {one['interval'][1]:.3f})" for one in cells]
        say(f"  {name:<28}" + "".join(f"{text:>25}" for text in shown))
