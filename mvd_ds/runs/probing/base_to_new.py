"""The halves of the classes under ``base_to_new``: what is fitted on one, asked of both, and said of the two together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvd_ds.config import BaseToNewSettings, ConfigError, ProbeRecipe
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.evaluation.harmonic import harmonic_interval
from mvd_ds.evaluation.head_training import ClassHalves
from mvd_ds.evaluation.probes import Probe
from mvd_ds.training.console import say

HALVES = ("base", "new")
WHY = "has no answer for classes that it was not fitted on"
"""Reason that stands in place of the accuracy on new classes."""


def label_classes(manifest: Manifest, label: str) -> tuple[str, ...]:
    """Return the names of a label's classes; numbers where the manifest has none."""
    column = manifest.labels[:, manifest.label_names.index(label)]
    return manifest.class_names.get(label) or tuple(str(number) for number in range(int(column.max()) + 1))


def halves_of(recipe: ProbeRecipe, manifest: Manifest, label: str) -> ClassHalves | None:
    """Return the halves of a label's classes; None without ``base_to_new``.

    Raises:
        ConfigError: if a half has a single class, of which nothing can be told apart.
    """
    settings = recipe.base_to_new
    if settings is None:
        return None
    count = len(label_classes(manifest, label))
    base = _base(settings, count, recipe.run.seed, label)
    halves = ClassHalves(base, tuple(number for number in range(count) if number not in base))
    for name, part in zip(HALVES, halves, strict=True):
        if len(part) < 2:
            raise ConfigError(
                f"base_to_new.share {settings.share}: of the {count} classes of label {label}, {len(part)} would be {name}, "
                "and two at least can be told apart"
            )
    return halves


def _base(settings: BaseToNewSettings, count: int, seed: int, label: str) -> tuple[int, ...]:
    cut = int(np.ceil(settings.share * count - 1e-9))
    if settings.pick == "first":
        return tuple(range(cut))
    return tuple(sorted(keyed_generator(seed, f"base of {label}").permutation(count)[:cut].tolist()))


def result_labels(recipe: ProbeRecipe, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of the results: with ``base_to_new`` two for each of the manifest."""
    return tuple(labels) if recipe.base_to_new is None else tuple(f"{label} {half}" for label in labels for half in HALVES)


def described(
    recipe: ProbeRecipe, manifest: Manifest, probes: Mapping[str, tuple[Probe | None, ...]], unseen: np.ndarray
) -> dict[str, Any]:
    """Return what ``probes.json`` says of both halves: classes, clips, and of each model accuracy on both and harmonic mean.

    Args:
        recipe: the probe run.
        manifest: of the training clips.
        probes: two for each label, base and new.
        unseen: labels of the held-out clips, int64 (S, L).
    """
    assert recipe.base_to_new is not None
    told = {}
    for number, label in enumerate(manifest.label_names):
        halves, names = halves_of(recipe, manifest, label), label_classes(manifest, label)
        assert halves is not None
        parts = dict(zip(HALVES, halves, strict=True))
        told[label] = {
            "pick": recipe.base_to_new.pick,
            "classes": {half: [names[one] for one in part] for half, part in parts.items()},
            "clips": {half: int(np.isin(unseen[:, number], part).sum()) for half, part in parts.items()},
            "models": {
                name: _both(found[2 * number], found[2 * number + 1], recipe.bootstrap_draws) for name, found in probes.items()
            },
        }
    return told


def _both(base: Probe | None, new: Probe | None, draws: int) -> dict[str, Any]:
    """Return accuracy on both halves and their harmonic mean, with intervals, or why there is none."""
    assert base is not None
    if new is None:
        return {"base": base.top1, "new": None, "harmonic": None, "why": WHY}
    found = harmonic_interval(base.correct, new.correct, draws)
    return {"base": base.top1, "new": new.top1, "harmonic": found.difference, "interval": [found.low, found.high]}


def say_halves(told: Mapping[str, Any]) -> None:
    """Print which classes are base, and the harmonic means."""
    for label, one in told.items():
        first, second = (
            f"{half} ({one['clips'][half]} held-out clips): {', '.join(map(repr, one['classes'][half]))}" for half in HALVES
        )
        say(f"{label}, {one['pick']} half of the classes as base: {first}; {second}")
        for name, found in one["models"].items():
            mean = found["why"] if found["harmonic"] is None else f"harmonic mean {found['harmonic']:.3f}"
            say(f"  {name:<28}{mean}")
