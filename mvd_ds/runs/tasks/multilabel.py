"""The task of several classes of each video: mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvd_ds.config import EvaluateRecipe, FinetuneRecipe
from mvd_ds.data.manifests.answers import set_classes, set_members
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.evaluation.answer_metrics import average_precisions, mean_average_precision, tied_classes
from mvd_ds.evaluation.predictions import Predictions
from mvd_ds.files import counted
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.runs.tasks.task import Figures, Gather, Rows, Task

#: Probability from which a class counts as told, in what is written of single videos; no figure depends on it.
TOLD = 0.5


class SeveralClasses(Task):
    """Any number of classes of each video. A video that cannot be read has every class with probability 0."""

    unreadable = "counted as wrong"

    def read(self, manifests: Sequence[Manifest], origins: Sequence[str], recipe: FinetuneRecipe) -> tuple[Classes, np.ndarray]:
        """Return the classes, and which of them every training video has, uint8 (n, classes)."""
        return set_classes(manifests, origins, recipe.label, recipe.allow_empty_classes, recipe.data.classes_by_position)

    def match(self, manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
        """Return which classes the videos of another manifest have, uint8 (n, classes)."""
        return set_members(manifest, classes, origin)

    def counted(self, classes: Classes) -> str:
        """Return the number of classes."""
        return f"{classes.counted}, any number of them a video"

    def written(self, labels: np.ndarray) -> list[str]:
        """Return the numbers of the classes of each video, ``3,7,12``."""
        return [",".join(map(str, np.flatnonzero(row).tolist())) or "-" for row in labels]

    def measure(self, card: ClassifierCard, labels: np.ndarray) -> SeveralMeasure:
        """Return a measurement of mean average precision."""
        return SeveralMeasure(card, labels)

    def score(self, values: dict[str, Any]) -> float:
        """Return mean average precision; below all others where no video has a class."""
        return float(values.get("map", -1.0))

    def summarise(self, found: Predictions, labels: np.ndarray, card: ClassifierCard, recipe: EvaluateRecipe) -> dict[str, Any]:
        """Return mean average precision with its interval, and each class's."""
        wanted = labels[found.videos]
        whole = mean_average_precision(found.probabilities, wanted, recipe.bootstrap_draws)
        each = average_precisions(found.probabilities, wanted)
        return {
            "map": whole.value,
            "intervals": {"map": [whole.low, whole.high]},
            "samples": len(found.videos),
            "unreadable": int((~found.ok).sum()),
            "per_class": [{"samples": int(n), "ap": ap} for n, ap in zip(wanted.sum(axis=0), each, strict=True)],
            "classes_without_positives": [name for name, ap in zip(card.classes, each, strict=True) if ap is None],
            "classes_with_ties": tied_classes(found.probabilities, wanted),
            "always_all": float(np.mean([n / len(wanted) for n in wanted.sum(axis=0) if n])) if wanted.any() else None,
        }

    def table(self, manifest: Manifest, card: ClassifierCard, labels: np.ndarray, found: Predictions) -> list[list[object]]:
        """Return a row per video: its classes, and the probability of every class."""
        rows: list[list[object]] = [["path", "labels", "readable", *card.classes]]
        for video, probabilities, ok in zip(*found, strict=True):
            cells = [f"{value:.6f}" if ok else "" for value in probabilities]
            rows.append([manifest.refs.path(int(video)), self.written(labels[video][None])[0], int(ok), *cells])
        return rows

    def words(self, results: dict[str, Any]) -> str:
        """Return mean average precision, and what it leaves out."""
        if results["map"] is None:
            return "no video has any of the classes: no mAP"
        low, high = results["intervals"]["map"]
        text = f"mAP {100 * results['map']:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
        bare, ties = len(results["classes_without_positives"]), results["classes_with_ties"]
        text += f", {bare} of {len(results['classes'])} classes without a video left out" if bare else ""
        return text + (f", {ties} classes with equal scores of right and wrong videos" if ties else "")


class SeveralMeasure(Rows):
    """The mean average precision on held-out videos.

    Args:
        card: it says what outputs mean.
        labels: uint8 (n, classes), the right ones.
    """

    def __init__(self, card: ClassifierCard, labels: np.ndarray) -> None:
        super().__init__(card)
        self._labels = labels

    def merged(self, gather: Gather) -> Figures:
        """Return ``map`` in [0, 1], if a video has a class, and the classes of probability 0.5 and more. Collective."""
        found = self.gathered(gather)
        known = [ap for ap in average_precisions(found.probabilities, self._labels[found.videos]) if ap is not None]
        told = [np.flatnonzero(row >= TOLD).tolist() if ok else None for _, row, ok in zip(*found, strict=True)]
        videos = counted(len(found.videos), "held-out video")
        if not known:
            return Figures({}, len(found.videos), told, f"no mAP: none of {videos} has a class")
        value = sum(known) / len(known)
        bare = len(self._labels[0]) - len(known)
        left = f", {bare} of {len(self._labels[0])} classes without a video left out" if bare else ""
        return Figures({"map": value}, len(found.videos), told, f"mAP {value:.4f} of {videos}{left}")
