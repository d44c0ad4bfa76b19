"""The task of one class of each video: accuracy, calibration and confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import EvaluateRecipe, FinetuneRecipe
from mvd_ds.data.manifests.labels import Classes, classes_of, labels_of, numbering_note
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.evaluation.metrics import TOP, AccuracyCounter
from mvd_ds.evaluation.predictions import Predictions, confused_pairs, summarise
from mvd_ds.files import counted
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.runs.tasks.task import Figures, Gather, Task


class OneClass(Task):
    """One class of each video."""

    unreadable = "counted as wrong"

    def read(self, manifests: Sequence[Manifest], origins: Sequence[str], recipe: FinetuneRecipe) -> tuple[Classes, np.ndarray]:
        """Return the classes and the class of every training video, int64 (n,)."""
        return classes_of(manifests, origins, recipe.label, recipe.allow_empty_classes, recipe.data.classes_by_position)

    def match(self, manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
        """Return the class of every video of another manifest, int64 (n,)."""
        return labels_of(manifest, classes, origin)

    def note(self, manifest: Manifest, classes: Classes, origin: str) -> str:
        """Return how classes were matched, where they are not the same numbers."""
        return numbering_note(manifest, classes, origin)

    def counted(self, classes: Classes) -> str:
        """Return the number of classes."""
        return classes.counted

    def parts(self, classes: Classes, labels: np.ndarray) -> list[np.ndarray]:
        """Return the videos of each class."""
        return [np.flatnonzero(labels == number) for number in range(len(classes.names))]

    def written(self, labels: np.ndarray) -> list[int]:
        """Return the numbers of the classes."""
        return labels.tolist()

    def measure(self, card: ClassifierCard, labels: np.ndarray) -> ClassMeasure:
        """Return a counter of right classes."""
        return ClassMeasure(labels, len(card.classes))

    def score(self, values: dict[str, Any]) -> float:
        """Return top-1."""
        return float(values["top1"])

    def summarise(self, found: Predictions, labels: np.ndarray, card: ClassifierCard, recipe: EvaluateRecipe) -> dict[str, Any]:
        """Return accuracy, calibration and confusions; ``examples`` of these are positions in the manifest."""
        pairs = confused_pairs(found, labels, recipe.confused_pairs, recipe.pictures_per_pair)
        return {**summarise(found, labels, recipe.calibration_bins), "confused_pairs": pairs}

    def table(self, manifest: Manifest, card: ClassifierCard, labels: np.ndarray, found: Predictions) -> list[list[object]]:
        """Return a row per video with the five likeliest classes and their probabilities."""
        shown = min(TOP[-1], len(card.classes))
        ranks = [f"{what}_{place}" for place in range(1, shown + 1) for what in ("class", "probability")]
        rows: list[list[object]] = [["path", "label", "label_class", "readable", "right", *ranks]]
        for video, probabilities, ok, label in zip(*found, labels, strict=True):
            best = np.argsort(-probabilities, kind="stable")[:shown]
            cells = [cell for index in best for cell in (card.classes[index], f"{probabilities[index]:.6f}")]
            told = [label, card.classes[label], int(ok), int(ok and best[0] == label)]
            rows.append([manifest.refs.path(int(video)), *told, *(cells if ok else [""] * 2 * shown)])
        return rows

    def words(self, results: dict[str, Any]) -> str:
        """Return accuracy and calibration."""
        error = results["calibration_error"]
        shares = {"top-1": results["top1"], "top-5": results["top5"], "mean per class": results["mean_per_class"]}
        if len(results["classes"]) <= TOP[-1]:
            del shares["top-5"]  # it is always 100 %
        text = ", ".join(f"{name} {100 * share:.2f} %" for name, share in shares.items())
        return text + ("" if error is None else f", calibration error {100 * error:.2f} points")


class ClassMeasure:
    """A count of right classes, and the class that was told of each video.

    Args:
        labels: int64 (n,), the right ones.
        classes: number of classes.
    """

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self._labels, self._classes = labels, classes
        self._counter = AccuracyCounter()
        self._predicted: dict[int, int] = {}

    def add(self, outputs: Tensor, videos: Sequence[int], ok: Tensor) -> None:
        """Count a batch."""
        self._counter.add(outputs, torch.from_numpy(self._labels[list(videos)]).to(outputs.device), ok)
        chosen = torch.where(ok, outputs.argmax(1).cpu(), -1).tolist()
        self._predicted |= dict(zip(videos, chosen, strict=True))

    def merged(self, gather: Gather) -> Figures:
        """Return top-1 and top-5 in [0, 1], and the class of each video, -1 for one that could not be read. Collective."""
        accuracy = self._counter.merged(gather)
        told = {video: chosen for part in gather(self._predicted) for video, chosen in part.items()}
        top5 = f", top-5 {accuracy.top5:.4f}" if self._classes > TOP[-1] else ""  # of five classes it is always 1
        words = f"top-1 {accuracy.top1:.4f}{top5} of {counted(accuracy.samples, 'held-out video')}"
        values = {"top1": accuracy.top1, "top5": accuracy.top5}
        return Figures(values, accuracy.samples, [told[video] for video in range(len(self._labels))], words)
