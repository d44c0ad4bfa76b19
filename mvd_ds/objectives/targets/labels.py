"""Targets that are the classes of clips, of which some have none."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.targets.target import Places, Target

UNLABELLED = -1
"""Class of a clip without one."""


def label_loss(logits: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of the labelled rows at this temperature, summed, over the number of all rows.

    Clips without a label add nothing but themselves to the number: the loss of a step is the same however it is split.

    Args:
        logits: (R, classes), any float type.
        label: int64 (R,), ``UNLABELLED`` for rows without one.
        temperature: logits are divided by this. Source: SupMAE, 10.

    Returns:
        Scalar fp32, 0 without any label.
    """
    entropies = functional.cross_entropy(logits.float() / temperature, label, ignore_index=UNLABELLED, reduction="sum")
    return entropies / len(label)


class LabelTarget(Target):
    """The class of a clip, for a head beside what is predicted. Source: SupMAE (arXiv 2205.14540).

    Args:
        recipe: the run; it has ``labels``.
        name: name of the target.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    is_tokenwise: ClassVar[bool] = False
    is_pointwise: ClassVar[bool] = False

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        if recipe.labels is None:
            raise ValueError("a class head needs the recipe's labels settings")
        settings = recipe.labels
        super().__init__(name, recipe.outputs[name].head(settings.classes), "cross_entropy", settings.weight)
        self.temperature = settings.temperature

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the ``label_loss``, a scalar in fp32, of logits (B*K, classes) and classes (B*K,)."""
        return label_loss(prediction, target, self.temperature)

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), 0 for those without a class; the mean is that of ``compare``."""
        logits = prediction.float() / self.temperature
        return functional.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="none")

    def trivial_loss(self, target: Tensor) -> Tensor:
        """Return the loss of equal logits for all classes."""
        return label_loss(torch.zeros(len(target), self.head.width, device=target.device), target, self.temperature)

    def measure(self, prediction: Tensor, target: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """Return the loss over that of equal logits; see ``Target``."""
        return {f"loss_relative/{self.name}": loss / self.trivial_loss(target).clamp_min(1e-12)}
