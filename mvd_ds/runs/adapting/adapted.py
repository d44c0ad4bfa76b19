"""The networks of ``finetune`` by the kind of their adaptation: built, learnt by an objective of their own, and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mvd_ds.config import PROMPT_HEADS, FinetuneRecipe, dump
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.models.classifiers.adaptation import save_adapted
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint
from mvd_ds.runs.adapting.prompts import PromptClassification, open_learner, write_learner
from mvd_ds.training.classification import Classification
from mvd_ds.training.cluster import Cluster

Teacher = Callable[[Tensor], Tensor] | None
"""A frozen classifier of the same classes, or the engine around it."""


class Adapted(Protocol):
    """A network in fine-tuning. A kind is a row of ``ADAPTED``."""

    model: nn.Module
    """The module that an engine trains: clips (B, C, T, H, W) -> outputs (B, K)."""
    frozen: dict[str, nn.Module]
    """Networks that it stands on, by name, which are no part of ``model``."""

    def objective(self, network: Any, teacher: Teacher, cluster: Cluster) -> Classification:
        """Return the losses of ``network``, the engine around ``model``, or ``model`` itself."""

    def save(self, folder: Path, network: nn.Module, weights: Mapping[str, Tensor], card: ClassifierCard, extra: Any) -> None:
        """Write a folder that ``evaluate`` and ``classify`` take.

        Args:
            folder: written aside, then put in place of what was there.
            network: the module, whose own weights are not looked at: it may be sharded.
            weights: its state dict, whole.
            card: names and clips.
            extra: JSON values kept beside it.

        Raises:
            ConfigError: if the folder cannot be written.
        """


class AdaptedClassifier:
    """An encoder with a class head: all of it, products of low rank, or the head alone learn.

    Args:
        recipe: the fine-tuning run.
        classes: of the label.

    Raises:
        ConfigError: if the weights are missing or of another architecture.
    """

    def __init__(self, recipe: FinetuneRecipe, classes: Classes) -> None:
        self.recipe, self.outputs = recipe, len(classes.names)
        self.model: nn.Module = init_classifier_from_checkpoint(recipe, self.outputs)
        self.frozen: dict[str, nn.Module] = {}

    def objective(self, network: Any, teacher: Teacher, cluster: Cluster) -> Classification:
        """Return the losses on labels, and on a teacher's logits; see ``Adapted``."""
        return Classification(self.recipe, network, teacher, self.outputs, cluster.device)

    def save(self, folder: Path, network: nn.Module, weights: Mapping[str, Tensor], card: ClassifierCard, extra: Any) -> None:
        """Write the classifier; see ``Adapted``."""
        assert isinstance(network, Classifier)
        save_adapted(folder, network, weights, card, {**extra, "finetuned_by": dump(self.recipe)}, self.recipe.adaptation)


class AdaptedPrompts:
    """Learned vectors on the frozen towers of a student.

    Args:
        recipe: the fine-tuning run.
        classes: of the label.

    Raises:
        ConfigError: if the weights are missing, of another architecture, or have no text tower that is needed.
    """

    def __init__(self, recipe: FinetuneRecipe, classes: Classes) -> None:
        self.recipe = recipe
        self.base, self.learner = open_learner(recipe, classes)
        self.model: nn.Module = self.learner
        self.frozen = {"towers": self.learner.towers}

    def objective(self, network: Any, teacher: Teacher, cluster: Cluster) -> Classification:
        """Return the losses of the prompts; see ``Adapted``."""
        return PromptClassification(self.recipe, network, teacher, len(self.base.names.classes), cluster)

    def save(self, folder: Path, network: nn.Module, weights: Mapping[str, Tensor], card: ClassifierCard, extra: Any) -> None:
        """Write the prompts; see ``Adapted``."""
        write_learner(folder, self.recipe, self.base, weights, card, extra)


ADAPTED: dict[str, Callable[[FinetuneRecipe, Classes], Adapted]] = {
    "full": AdaptedClassifier,
    "lora": AdaptedClassifier,
    "frozen": AdaptedClassifier,
    **dict.fromkeys(PROMPT_HEADS, AdaptedPrompts),
}
"""The network of a run, by ``adaptation.kind``."""


def place_frozen(adapted: Adapted, device: torch.device, dtype: torch.dtype) -> None:
    """Move the networks that an adapted one stands on to a device, whole."""
    for network in adapted.frozen.values():
        network.to(device, dtype)
