"""This module classifies clips by the vote of their nearest neighbours, which needs no training."""

from __future__ import annotations

import numpy as np

#: Neighbours that vote, and exp(cosine / temperature) that each weighs. Source: DINO, after Wu et al. 2018.
NEIGHBOURS, TEMPERATURE = 20, 0.07


def leave_one_out(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of clips whose class the vote of the others names.

    Args:
        features: float32 (S, D), S at least 2.
        labels: int64 (S,).
    """
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(labels) - 1)]
    classes, numbers = np.unique(labels, return_inverse=True)
    weights = np.exp((np.take_along_axis(cosines, nearest, axis=1) - 1) / TEMPERATURE)
    votes = np.zeros((len(labels), len(classes)))
    np.add.at(votes, (np.arange(len(labels))[:, None], numbers[nearest]), weights)
    return float((votes.argmax(axis=1) == numbers).mean())


def few_of_many(labels: np.ndarray, clips: int, seed: int) -> np.ndarray:
    """Choose at most ``clips`` clips of so few classes that each has some 25, so that neighbours can be found.

    Args:
        labels: int64 (n, L); the classes are those of the first label, evenly spread over all.
        clips: largest number of clips.
        seed: seed of the draw.

    Returns:
        int64, ascending.
    """
    classes = np.unique(labels[:, 0])
    chosen = classes[np.linspace(0, len(classes) - 1, min(len(classes), max(clips // 25, 2))).round().astype(int)]
    among = np.flatnonzero(np.isin(labels[:, 0], chosen))
    return np.sort(np.random.default_rng(seed).permutation(among)[:clips])
