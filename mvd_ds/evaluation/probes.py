"""This module fits linear probes on frozen features and compares networks clip by clip."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils.parallel import Parallel, delayed

from mvd_ds.config import ConfigError, ProbeRecipe

#: On features of 128 to 1152 dimensions a tighter tolerance moves no accuracy by more than its own error, and takes longer.
TOLERANCE = 2e-4
ITERATIONS = 500


class Probe(NamedTuple):
    """The result of one network on one label."""

    top1: float
    """Share of held-out clips classified rightly, mean over seeds."""
    per_seed: tuple[float, ...]
    """``top1``, seed by seed."""
    regularisations: tuple[float, ...]
    """Choice of each seed: C of a linear probe, learning rate of a trained head, nothing for neighbours."""
    correct: np.ndarray
    """bool (seeds, S), for ``compare``."""
    weight_decays: tuple[float, ...] = ()
    """Choice of each seed for a trained head."""
    classes: np.ndarray | None = None
    """int64 (seeds, S), what a trained head answered; -1: nothing finite."""
    shares: np.ndarray | None = None
    """float32 (seeds, S), the probability that it gave that class."""
    clips: np.ndarray | None = None
    """int64 (S,), places of the clips among all that are held out (None: they are all of them)."""
    states: tuple[dict[str, Any] | None, ...] = ()
    """Parameters of the head of each seed, where they are kept."""


class ConfidenceInterval(NamedTuple):
    """A difference of accuracies and its 95 % interval."""

    difference: float
    low: float
    high: float


def fit_probes(
    train: Mapping[str, np.ndarray],
    train_labels: np.ndarray,
    held_out: Mapping[str, np.ndarray],
    held_out_labels: np.ndarray,
    recipe: ProbeRecipe,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
    rows_per_clip: int = 1,
) -> dict[str, tuple[Probe, ...]]:
    """Fit a probe for every network and label; return them by name of the network, in the order of the labels.

    Each seed draws, for all networks alike, the share of the training clips that chooses C; the probe is then fitted on all
    training clips. Held-out clips are classified and choose nothing.

    Args:
        train: float32 (S, D) by name of the network.
        train_labels: int64 (S, L).
        held_out: float32 (S', D) by name of the network.
        held_out_labels: int64 (S', L).
        recipe: seeds, grid of C and share of the training clips that chooses from it.
        on_progress: called with (probes fitted, probes in all).
        workers: processes.
        rows_per_clip: neighbouring rows that are of one clip.

    Raises:
        ConfigError: features that are not finite, or labels that cannot be probed.
    """
    for name in train:
        _check(name, train[name], held_out[name])
    tasks = [(name, label) for name in train for label in range(train_labels.shape[1])]
    parallel = Parallel(n_jobs=min(workers, len(tasks)), return_as="generator")
    fitted: dict[str, tuple[Probe, ...]] = dict.fromkeys(train, ())
    probes = parallel(
        delayed(fit_probe)(train[name], train_labels[:, label], held_out[name], held_out_labels[:, label], recipe, rows_per_clip)
        for name, label in tasks
    )
    for done, ((name, _), probe) in enumerate(zip(tasks, probes, strict=True), 1):
        fitted[name] += (probe,)
        if on_progress is not None:
            on_progress(done, len(tasks))
    return fitted


def fit_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    held_out: np.ndarray,
    held_out_labels: np.ndarray,
    recipe: ProbeRecipe,
    rows_per_clip: int = 1,
) -> Probe:
    """Fit the probe of one network and one label; arguments as in ``fit_probes``, labels int64 (S,)."""
    correct: dict[float, np.ndarray] = {}
    chosen = []
    for seed in recipe.seeds:
        best = _choose_regularisation(train, train_labels, recipe, seed, rows_per_clip)
        if best not in correct:  # the seed draws the split alone: the same C is the same probe
            classify = _fit(train, train_labels, (best,))[0]
            correct[best] = classify(held_out) == held_out_labels
        chosen.append(best)
    rows = np.stack([correct[c] for c in chosen])
    return Probe(float(rows.mean()), tuple(rows.mean(1).tolist()), tuple(chosen), rows)


def selection_split(count: int, share: float, seed: int, rows_per_clip: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the share of ``count`` training rows that chooses: bool (count,), its rows int64, and the others int64.

    Rows are drawn clip by clip, of which each has ``rows_per_clip`` neighbouring ones.
    """
    clips = np.random.default_rng(seed).permutation(count // rows_per_clip)
    order = (clips[:, None] * rows_per_clip + np.arange(rows_per_clip)).ravel()
    cut = max(1, round(share * len(clips))) * rows_per_clip
    chosen = np.zeros(count, bool)
    chosen[order[:cut]] = True
    return chosen, order[:cut], order[cut:]


def nearest_neighbours(
    train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray, recipe: ProbeRecipe
) -> Probe:
    """Classify by the vote of the nearest training clips by cosine; arguments as in ``fit_probe``, all seeds agree."""
    settings = recipe.neighbours
    voters = KNeighborsClassifier(
        min(settings.count, len(train)),
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / settings.temperature),
    )
    correct = voters.fit(train, train_labels).predict(held_out) == held_out_labels
    rows = np.repeat(correct[None], len(recipe.seeds), axis=0)
    return Probe(float(correct.mean()), tuple(rows.mean(1).tolist()), (), rows)


def chance(labels: np.ndarray) -> float:
    """Return the accuracy of always naming the most frequent class of ``labels`` int64 (S,)."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def compare(a: Probe, b: Probe, draws: int, seed: int = 0) -> ConfidenceInterval:
    """Return how much more of the held-out clips ``a`` classifies rightly than ``b``, with a paired bootstrap interval.

    Clips and seeds are resampled with replacement, and both networks get the same ones.

    Args:
        a: result of the network that should know more.
        b: result of the network that it is compared with, on the same clips and seeds.
        draws: number of resamples.
        seed: seed of the resampling.
    """
    return paired_interval(a.correct, b.correct, draws, seed)


def accuracy_interval(correct: np.ndarray, draws: int, seed: int = 0) -> ConfidenceInterval:
    """Return the mean of ``correct`` (seeds, clips) with a 95 % bootstrap interval over seeds and clips."""
    return paired_interval(correct, np.zeros_like(correct), draws, seed)


def paired_interval(a: np.ndarray, b: np.ndarray, draws: int, seed: int = 0) -> ConfidenceInterval:
    """Compare two tables (seeds, clips) as ``compare`` does: bool, or shares of several trials in [0, 1]."""
    gain = a.astype(np.float32) - b.astype(np.float32)
    seeds, clips = gain.shape
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        per_clip = gain[rng.integers(seeds, size=seeds)].mean(0)
        means[draw] = per_clip[rng.integers(clips, size=clips)].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return ConfidenceInterval(float(gain.mean()), float(low), float(high))


def _choose_regularisation(features: np.ndarray, labels: np.ndarray, recipe: ProbeRecipe, seed: int, rows_per_clip: int) -> float:
    """Return the C that is best on a random share of the training clips; of equals, the strongest regularisation."""
    _, selection, rest = selection_split(len(labels), recipe.selection_share, seed, rows_per_clip)
    grid = tuple(sorted(recipe.regularisations))
    path = _fit(features[rest], labels[rest], grid)
    right = [(classify(features[selection]) == labels[selection]).mean() for classify in path]
    return grid[int(np.argmax(right))]


def _fit(features: np.ndarray, labels: np.ndarray, grid: tuple[float, ...]) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Fit a classifier for each C, every one starting from the one before it."""
    if len(np.unique(labels)) < 2:
        raise ConfigError("probe: the training clips of one label show a single class; a probe needs at least two")
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    model = LogisticRegression(warm_start=True, tol=TOLERANCE, max_iter=ITERATIONS)
    fitted = []
    for inverse_strength in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # only weak regularisation gets there, and it is not chosen
            model.set_params(C=inverse_strength).fit(scaled, labels)
        fitted.append(_classifier(scaler, model.classes_, model.coef_.copy(), model.intercept_.copy()))
    return fitted


def _classifier(
    scaler: StandardScaler, classes: np.ndarray, weights: np.ndarray, bias: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    def classify(features: np.ndarray) -> np.ndarray:
        scores = scaler.transform(features) @ weights.T + bias
        # Two classes have one row of weights, for the second of them.
        best = scores.argmax(1) if len(classes) > 2 else (scores[:, 0] > 0).astype(np.int64)
        return classes[best]

    return classify


def _check(name: str, train: np.ndarray, held_out: np.ndarray) -> None:
    if not (np.isfinite(train).all() and np.isfinite(held_out).all()):
        raise ConfigError(f"models.{name}: its features are not finite; were its weights trained without a fault?")
