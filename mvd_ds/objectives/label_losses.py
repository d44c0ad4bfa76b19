"""The losses of fine-tuning on labels, by the task: a class, several classes, or a real number. All in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from mvd_ds.config import FinetuneRecipe
from mvd_ds.objectives.classification import cross_entropy, soft_targets


class LabelLoss(NamedTuple):
    """A loss of a network's outputs against the labels of a batch."""

    name: str
    """Its name in the metrics."""
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(outputs (B, K), label (B, ...), partner int64 (B,), own_share (B,)) -> the mean over clips."""


def class_loss(recipe: FinetuneRecipe, classes: int) -> LabelLoss:
    """Return the cross entropy against the smoothed classes of clips and their partners."""

    def loss(outputs: Tensor, label: Tensor, partner: Tensor, own_share: Tensor) -> Tensor:
        return cross_entropy(outputs, soft_targets(label, partner, own_share, classes, recipe.label_smoothing))

    return LabelLoss("class", loss)


def several_loss(recipe: FinetuneRecipe, classes: int) -> LabelLoss:
    """Return the binary cross entropy of every class, a mean over clips and classes.

    A class that either clip of a mixed pair has counts by that clip's share. Smoothing s takes 1 to 1 - s / 2 and 0 to s / 2.
    Source: Charades and AudioSet baselines (binary cross entropy); mixup of AST, Gong et al. 2021 (arXiv 2104.01778).
    """
    smoothing = recipe.label_smoothing

    def loss(outputs: Tensor, label: Tensor, partner: Tensor, own_share: Tensor) -> Tensor:
        single = label.float() * (1 - smoothing) + smoothing / 2
        share = own_share.float()[:, None]
        return functional.binary_cross_entropy_with_logits(outputs.float(), share * single + (1 - share) * single[partner])

    return LabelLoss("multilabel", loss)


REAL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": functional.smooth_l1_loss,
    "mse": functional.mse_loss,
}
"""Losses of standardised real numbers: (outputs (B,), wanted (B,)) -> the mean over clips."""


def real_loss(recipe: FinetuneRecipe, classes: int) -> LabelLoss:
    """Return the loss of the only output against standardised real numbers; clips are not mixed."""
    kind = REAL_LOSSES[recipe.regression_loss]

    def loss(outputs: Tensor, label: Tensor, partner: Tensor, own_share: Tensor) -> Tensor:
        return kind(outputs.float()[:, 0], label.float())

    return LabelLoss("regression", loss)


LABEL_LOSSES: dict[str, Callable[[FinetuneRecipe, int], LabelLoss]] = {
    "classes": class_loss,
    "multilabel": several_loss,
    "regression": real_loss,
}
"""The loss of every ``task``: (recipe, number of outputs) -> the loss."""
