"""The task of a real number of each video: mean absolute error, Spearman's correlation and R2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError, EvaluateRecipe, FinetuneRecipe
from mvd_ds.data.manifests.answers import label_of, matched_label, reals_of
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.evaluation.answer_metrics import REAL_FIGURES, real_figures
from mvd_ds.evaluation.predictions import Predictions
from mvd_ds.files import counted
from mvd_ds.models.classifiers.answers import Scale
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.runs.tasks.task import Figures, Gather, Rows, Task

#: Figures as they are written for people.
TITLES = {"mae": "mean absolute error", "spearman": "Spearman", "r2": "R2"}


class RealNumber(Task):
    """A real number of each video. Figures leave out a video that cannot be read, and say how many these are."""

    unreadable = "left out"

    def read(self, manifests: Sequence[Manifest], origins: Sequence[str], recipe: FinetuneRecipe) -> tuple[Classes, np.ndarray]:
        """Return the label as the one thing that is told, and the number of every training video, float64 (n,)."""
        named = [label_of(manifest, recipe.label, origin) for manifest, origin in zip(manifests, origins, strict=True)]
        found = [reals_of(*each) for each in zip(manifests, named, origins, strict=True)]
        return Classes(named[0], (named[0],), named=False), np.concatenate(found)

    def match(self, manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
        """Return the number of every video of another manifest, float64 (n,)."""
        return reals_of(manifest, matched_label(manifest, classes.label, origin), origin)

    def counted(self, classes: Classes) -> str:
        """Return the name of the number."""
        return f"a real number, {classes.label}"

    def written(self, labels: np.ndarray) -> list[str]:
        """Return the numbers, all digits of them."""
        return [repr(value) for value in labels.tolist()]

    def scale(self, labels: np.ndarray, origin: str) -> Scale:
        """Return mean and standard deviation of the training labels.

        Raises:
            ConfigError: if all are the same number.
        """
        found = Scale(float(labels.mean()), float(labels.std()))
        if not found.std > 0 or not np.isfinite(found.std):
            raise ConfigError(f"{origin}: the labels of the training videos are all {labels[0]:g}; there is nothing to learn")
        return found

    def learnt(self, labels: np.ndarray, scale: Scale | None) -> np.ndarray:
        """Return standardised numbers, float32 (n,)."""
        assert scale is not None
        return ((labels - scale.mean) / scale.std).astype(np.float32)

    def measure(self, card: ClassifierCard, labels: np.ndarray) -> RealMeasure:
        """Return a measurement of distance and order."""
        return RealMeasure(card, labels)

    def score(self, values: dict[str, Any]) -> float:
        """Return the negative mean absolute error; below all others where no video could be read."""
        return -float(values["mae"]) if "mae" in values else -float("inf")

    def summarise(self, found: Predictions, labels: np.ndarray, card: ClassifierCard, recipe: EvaluateRecipe) -> dict[str, Any]:
        """Return distance and order with their intervals, beside the distance of always telling the training mean."""
        answers, wanted = _read(found, labels)
        figures = real_figures(answers, wanted, recipe.bootstrap_draws)
        assert card.scale is not None
        return {
            **{name: figure.value for name, figure in figures.items()},
            "intervals": {name: [figure.low, figure.high] for name, figure in figures.items()},
            "samples": len(found.videos),
            "unreadable": int((~found.ok).sum()),
            "mae_of_training_mean": REAL_FIGURES["mae"](np.full(len(wanted), card.scale.mean), wanted),
            "scale": card.scale._asdict(),
            "points": [[float(a), float(b)] for a, b in zip(wanted, answers, strict=True)],
        }

    def table(self, manifest: Manifest, card: ClassifierCard, labels: np.ndarray, found: Predictions) -> list[list[object]]:
        """Return a row per video: its number, the answer, and how far that is off."""
        rows: list[list[object]] = [["path", "label", "readable", "answer", "error"]]
        for video, answer, ok in zip(*found, strict=True):
            wanted = float(labels[video])
            cells = [float(f"{answer[0]:.7g}"), float(f"{answer[0] - wanted:.7g}")] if ok else ["", ""]
            rows.append([manifest.refs.path(int(video)), wanted, int(ok), *cells])
        return rows

    def words(self, results: dict[str, Any]) -> str:
        """Return distance and order."""
        if results["mae"] is None:
            return "no video could be read: no figures"
        parts = []
        for name, title in TITLES.items():
            low, high = results["intervals"][name]
            value = results[name]
            parts.append(f"{title} not defined" if value is None else f"{title} {value:.4g} ({low:.4g} to {high:.4g})")
        text = ", ".join(parts) + f"; always the training mean: {results['mae_of_training_mean']:.4g}"
        return text + (f"; {results['unreadable']} unreadable left out" if results["unreadable"] else "")


class RealMeasure(Rows):
    """Distance and order of the answers to held-out videos.

    Args:
        card: it says what outputs mean.
        labels: float64 (n,), the right ones.
    """

    def __init__(self, card: ClassifierCard, labels: np.ndarray) -> None:
        super().__init__(card)
        self._labels = labels

    def merged(self, gather: Gather) -> Figures:
        """Return the figures that are defined, and the number of each video, None for one that could not be read. Collective."""
        found = self.gathered(gather)
        answers, wanted = _read(found, self._labels)
        values = {name: value for name, figure in REAL_FIGURES.items() if (value := figure(answers, wanted)) is not None}
        told = [float(row[0]) if ok else None for _, row, ok in zip(*found, strict=True)]
        words = ", ".join(f"{TITLES[name]} {value:.4g}" for name, value in values.items()) or "no figures"
        return Figures(values, len(found.videos), told, f"{words} of {counted(int(found.ok.sum()), 'held-out video')}")


def _read(found: Predictions, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return answers and labels of the videos that could be read, float64 (S,) each."""
    return found.probabilities[found.ok, 0].astype(np.float64), labels[found.videos][found.ok]
