"""Targets that are the features of a teacher, as the teacher gives them."""

from __future__ import annotations

from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.targets.target import Places, Target
from mvd_ds.objectives.targets.visible import VisibleLoss


class FeatureTarget(Target):
    """The features of one teacher. Source: MVD, the last block before the final norm.

    Args:
        recipe: the run.
        name: name of the teacher.
    """

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        output = recipe.outputs[name]
        assert output.teacher is not None and output.target is not None
        teacher, target = recipe.teachers[output.teacher], output.target
        self.parts = len(set(target.blocks)) if target.mode == "each" else 1
        joined = 1 if target.mode == "mean" else len(set(target.blocks))
        weight = teacher.weight if target.weight is None else target.weight
        super().__init__(name, output.head(joined * teacher.embed_dim), target.loss or teacher.loss, weight)
        self.visible = VisibleLoss(target, recipe.grid) if target.tokens == "all" else None

    def forward(self, source: Tensor) -> Tensor:
        """Return targets (..., parts * D) of features (..., parts * D): every part, the prediction of one block, by itself."""
        if self.parts == 1:
            return self.standardised(source)
        return self.standardised(source.unflatten(-1, (self.parts, -1))).flatten(-2)

    def standardised(self, features: Tensor) -> Tensor:
        """Return features (..., D) on the scale on which they are predicted."""
        return features

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss, a scalar in fp32, between predictions (..., parts * D) and their targets: the mean over the parts."""
        prediction, target = self._apart(prediction), self._apart(target)
        if self.visible is None:
            return super().compare(prediction, target, places)
        count = self.visible.count(places)
        loss = super().compare(prediction[:, :count], target[:, :count], places)
        return loss + self.visible(self.loss, prediction[:, count:], target[:, count:], places).mean()

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), whose mean is that of ``compare``."""
        prediction, target = self._apart(prediction), self._apart(target)
        if self.visible is None:
            return super().rows(prediction, target, places)
        count = self.visible.count(places)
        rows = super().rows(prediction[:, :count], target[:, :count], places)
        return rows + self.visible(self.loss, prediction[:, count:], target[:, count:], places)

    def _apart(self, values: Tensor) -> Tensor:
        return values if self.parts == 1 else values.unflatten(-1, (self.parts, -1))
