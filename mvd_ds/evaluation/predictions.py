"""This module averages a classifier's probabilities over views and counts every figure of a test from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.evaluation.metrics import TOP, AccuracyCounter


class Predictions(NamedTuple):
    """Predictions of S videos, in the order of the manifest."""

    videos: np.ndarray
    """int64 (S,), index in the manifest."""
    probabilities: np.ndarray
    """float32 (S, classes), or answers of another task (S, K); zeros where the video could not be read."""
    ok: np.ndarray
    """bool (S,)."""


def softmax(outputs: Tensor) -> Tensor:
    """Return the probabilities of classes of which each video has one."""
    return outputs.softmax(dim=1)


def view_probabilities(
    forward: Callable[[Tensor], Tensor], clips: Tensor, chunk: int, answer: Callable[[Tensor], Tensor] = softmax
) -> Tensor:
    """Return the mean over views of what a network answers, fp32 (B, K) on the CPU. Source: MVD 2.3, of softmaxes.

    Args:
        forward: clips uint8 (n, C, T, H, W) -> logits (n, classes), on any device.
        clips: uint8 (B, views, C, T, H, W).
        chunk: largest n.
        answer: outputs fp32 (n, K) -> what they mean; by default the probabilities of classes.
    """
    outputs = torch.cat([forward(part).float() for part in clips.flatten(0, 1).split(chunk)])
    return answer(outputs).unflatten(0, clips.shape[:2]).mean(dim=1).cpu()


def predict(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[Any],
    classes: int,
    chunk: int,
    on_progress: Callable[[int], None] = lambda seen: None,
    answer: Callable[[Tensor], Tensor] = softmax,
) -> Predictions:
    """Return the predictions of one process on its batches.

    Args:
        forward: function as in ``view_probabilities``.
        batches: batches with ``clips`` (B, views, C, T, H, W), ``videos`` (B,) and ``ok`` (B,).
        classes: number of classes.
        chunk: clips per forward.
        on_progress: called after each batch with the number of videos seen.
        answer: function as in ``view_probabilities``.
    """
    videos, rows, oks, seen = [], [], [], 0
    with torch.inference_mode():
        for batch in batches:
            found = view_probabilities(forward, batch.clips, chunk, answer)
            rows.append(torch.where(batch.ok[:, None], found, 0.0).numpy())
            # Copies: the memory of a batch is used again for another one.
            videos.append(batch.videos.numpy().copy())
            oks.append(batch.ok.numpy().copy())
            seen += len(batch.videos)
            on_progress(seen)
    if not rows:
        return Predictions(np.empty(0, np.int64), np.empty((0, classes), np.float32), np.empty(0, bool))
    return Predictions(np.concatenate(videos), np.concatenate(rows), np.concatenate(oks))


def merge(parts: Iterable[Predictions]) -> Predictions:
    """Return the predictions of all processes in the order of the manifest; a video that came twice is there once."""
    videos, probabilities, ok = (np.concatenate(column) for column in zip(*parts, strict=True))
    order, first = np.unique(videos, return_index=True)
    return Predictions(order, probabilities[first], ok[first])


def set_aside(found: Predictions) -> tuple[Predictions, list[int]]:
    """Return the predictions with non-finite ones marked unreadable, and the indices of these videos."""
    broken = found.ok & ~np.isfinite(found.probabilities).all(1)
    probabilities = np.where(broken[:, None], np.float32(0), found.probabilities)
    return Predictions(found.videos, probabilities, found.ok & ~broken), found.videos[broken].tolist()


def summarise(found: Predictions, labels: np.ndarray, bins: int) -> dict[str, Any]:
    """Return every figure of a test, shares in [0, 1]. Videos that could not be read count as wrong.

    Args:
        found: predictions of S videos.
        labels: int64 (S,), classes.
        bins: number of bins of the calibration error.

    Returns:
        ``top1``, ``top5``, ``samples``, ``unreadable``, ``mean_per_class`` (over classes that have a sample),
        ``calibration_error``, ``per_class`` (a list of ``samples`` and ``top1``, None without a sample), ``calibration`` (as
        ``calibrate`` gives it) and ``confusion`` (rows are true classes, columns predicted ones; unreadable videos are in none).
    """
    counter = AccuracyCounter()
    scores, targets = torch.from_numpy(found.probabilities), torch.from_numpy(labels)
    counter.add(scores, targets, ok=torch.from_numpy(found.ok))
    accuracy = counter.merged()
    classes = scores.shape[1]
    predicted = found.probabilities.argmax(1)
    right = found.ok & (predicted == labels)
    samples = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[found.ok], predicted[found.ok]), 1)
    per_class = [int(hit) / int(count) if count else None for hit, count in zip(hits, samples, strict=True)]
    known = [share for share in per_class if share is not None]
    error, calibration = calibrate(found.probabilities[found.ok].max(1, initial=0), right[found.ok], bins)
    return {
        **{f"top{top}": share for top, share in zip(TOP, accuracy[:2], strict=True)},
        "samples": accuracy.samples,
        "unreadable": int((~found.ok).sum()),
        "mean_per_class": sum(known) / len(known),
        "calibration_error": error,
        "per_class": [{"samples": int(n), "top1": share} for n, share in zip(samples, per_class, strict=True)],
        "calibration": calibration,
        "confusion": confusion.tolist(),
    }


def calibrate(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[float | None, list[dict[str, float]]]:
    """Return the expected calibration error, and ``confidence``, ``accuracy`` and ``samples`` of every bin with a sample.

    Args:
        confidence: (S,), probability of the predicted class.
        right: bool (S,).
        bins: number of bins of equal width over [0, 1], closed above.

    Source: Guo et al. 2017 (arXiv 1706.04599): the mean over samples of |accuracy - confidence| of their bin.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = []
    for number in np.unique(place):
        inside = place == number
        rows.append(
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "samples": int(inside.sum()),
            }
        )
    if not rows:
        return None, rows
    return sum(row["samples"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(right), rows


def confused_pairs(found: Predictions, labels: np.ndarray, pairs: int, examples: int) -> list[dict[str, Any]]:
    """Return the pairs (true class, predicted class) that are confused most often, most frequent first.

    Returns:
        ``true``, ``predicted``, ``videos`` (how many), ``share`` of the true class's videos, and ``examples``: indices in the
        manifest of those that the classifier is surest of.
    """
    predicted = found.probabilities.argmax(1)
    wrong = np.flatnonzero(found.ok & (predicted != labels))
    kinds, counts = np.unique(np.stack((labels[wrong], predicted[wrong])), axis=1, return_counts=True)
    samples = np.bincount(labels)
    rows = []
    for place in np.argsort(-counts, kind="stable")[:pairs]:
        true, other = kinds[:, place].tolist()
        rows_of_it = wrong[(labels[wrong] == true) & (predicted[wrong] == other)]
        surest = rows_of_it[np.argsort(-found.probabilities[rows_of_it, other], kind="stable")][:examples]
        count = int(counts[place])
        rows.append(
            {
                "true": true,
                "predicted": other,
                "videos": count,
                "share": count / int(samples[true]),
                "examples": found.videos[surest].tolist(),
            }
        )
    return rows
