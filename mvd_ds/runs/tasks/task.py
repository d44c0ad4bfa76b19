"""The interface of a task of labelled videos, and what its measurements have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import EvaluateRecipe, FinetuneRecipe
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.evaluation.predictions import Predictions
from mvd_ds.models.classifiers.answers import Scale
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard

Gather = Callable[[Any], list[Any]]
"""A value -> that value of every process. Collective."""


class Figures(NamedTuple):
    """The result of a measurement on held-out videos while a network trains."""

    values: dict[str, float]
    """Figures by name, those that are defined."""
    samples: int
    """Number of videos."""
    predicted: list[Any]
    """What was predicted for each video, in the order of the manifest, as JSON has it."""
    words: str
    """The figures for the terminal."""


class Measure(Protocol):
    """A measurement on held-out videos, batch by batch on every process."""

    def add(self, outputs: Tensor, videos: Sequence[int], ok: Tensor) -> None:
        """Take outputs fp32 (B, K) for ``videos``, positions in the manifest; ``ok`` bool (B,): which could be read."""

    def merged(self, gather: Gather) -> Figures:
        """Return the figures over all processes, the same on each. Collective."""


class Task(ABC):
    """A task: how its labels are read, held out and written, how answers are measured, and what is said of them.

    ``unreadable`` says what becomes of a video that cannot be read. Labels (n, ...) are those of the manifest: classes int64
    (n,), uint8 (n, classes), or float64 (n,) in their own units.
    """

    unreadable: str

    @abstractmethod
    def read(self, manifests: Sequence[Manifest], origins: Sequence[str], recipe: FinetuneRecipe) -> tuple[Classes, np.ndarray]:
        """Return what the outputs stand for, and the labels of the training videos.

        Raises:
            ConfigError: naming the first line that is wrong.
        """

    @abstractmethod
    def match(self, manifest: Manifest, classes: Classes, origin: str) -> np.ndarray:
        """Return the labels of another manifest, numbered as ``classes`` are.

        Raises:
            ConfigError: naming the first line that is wrong, or what does not belong together.
        """

    def note(self, manifest: Manifest, classes: Classes, origin: str) -> str:
        """Return a line that says how labels of a manifest were matched, or nothing: what is told has one name everywhere."""
        return ""

    @abstractmethod
    def counted(self, classes: Classes) -> str:
        """Return what is learnt, for the terminal."""

    def parts(self, classes: Classes, labels: np.ndarray) -> list[np.ndarray]:
        """Return the rows, int64, of the groups of videos from each of which a share is held out: one group of all."""
        return [np.arange(len(labels))]

    @abstractmethod
    def written(self, labels: np.ndarray) -> Sequence[int | str]:
        """Return labels as a manifest has them."""

    def scale(self, labels: np.ndarray, origin: str) -> Scale | None:
        """Return the scale of the training labels; None, for outputs that are logits.

        Raises:
            ConfigError: if they have none.
        """
        return None

    def learnt(self, labels: np.ndarray, scale: Scale | None) -> np.ndarray:
        """Return labels as the loss takes them: as they are."""
        return labels

    @abstractmethod
    def measure(self, card: ClassifierCard, labels: np.ndarray) -> Measure:
        """Return a measurement against the labels of held-out videos."""

    @abstractmethod
    def score(self, values: dict[str, Any]) -> float:
        """Return how good a model of these figures is, the larger the better."""

    @abstractmethod
    def summarise(self, found: Predictions, labels: np.ndarray, card: ClassifierCard, recipe: EvaluateRecipe) -> dict[str, Any]:
        """Return every figure of a test, for ``evaluation.json``."""

    @abstractmethod
    def table(self, manifest: Manifest, card: ClassifierCard, labels: np.ndarray, found: Predictions) -> list[list[object]]:
        """Return the rows of ``predictions.csv``, their names first."""

    @abstractmethod
    def words(self, results: dict[str, Any]) -> str:
        """Return the figures of a test for the terminal."""


class Rows:
    """The answers to held-out videos, kept one by one: figures that need all of them at once are taken on every process.

    Args:
        card: it says what outputs mean.
    """

    def __init__(self, card: ClassifierCard) -> None:
        self._card = card
        self._found: dict[int, tuple[list[float], bool]] = {}

    def add(self, outputs: Tensor, videos: Sequence[int], ok: Tensor) -> None:
        """Take the outputs of a batch; what is not finite counts as not readable."""
        answers = self._card.answer(outputs.float())
        read = ok.to(answers.device) & answers.isfinite().all(dim=1)
        answers = torch.where(read[:, None], answers, 0.0)
        for video, row, is_read in zip(videos, answers.tolist(), read.tolist(), strict=True):
            self._found[video] = (row, is_read)

    def gathered(self, gather: Gather) -> Predictions:
        """Return the answers of all processes in the order of the manifest. Collective."""
        merged = {video: found for part in gather(self._found) for video, found in part.items()}
        videos = sorted(merged)
        rows = np.array([merged[video][0] for video in videos], np.float32).reshape(len(videos), -1)
        return Predictions(np.array(videos, np.int64), rows, np.array([merged[video][1] for video in videos], bool))
