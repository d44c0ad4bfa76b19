"""Targets that are the features of a teacher, on the scale that its settings ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.standardisers import STANDARDISERS, Standardiser
from mvd_ds.objectives.targets.target import Places, Target, taught
from mvd_ds.objectives.targets.visible import VisibleLoss


class FeatureTarget(Target):
    """The features of one teacher. Source: MVD, the last block before the final norm.

    Args:
        recipe: the run.
        name: name of the target.
    """

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        output, teacher, target, weight = taught(recipe, name)
        self.parts = len(set(target.blocks)) if target.mode == "each" else 1
        joined = 1 if target.mode == "mean" else len(set(target.blocks))
        width = joined * teacher.embed_dim
        super().__init__(name, output.head(width), target.loss or teacher.loss, weight)
        made = [STANDARDISERS[target.standardised_by](width // self.parts, name) for _ in range(self.parts)]
        self.standardise = target.standardised_by
        self.standardisers = nn.ModuleList(made)
        self.is_tokenwise = not made[0].whole_clip
        self.visible = VisibleLoss(target, recipe.grid) if target.tokens == "all" else None

    def forward(self, source: Tensor) -> Tensor:
        """Return targets (..., parts * D) of features (..., parts * D): every part, the prediction of one block, by itself."""
        if self.parts == 1:
            standardised: Tensor = self.standardisers[0](source)
            return standardised
        parts = source.chunk(self.parts, dim=-1)
        return torch.cat([standardiser(part) for standardiser, part in zip(self.standardisers, parts, strict=True)], dim=-1)

    def undo(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return factors, shifts and rotations of the parts; see ``Target``."""
        found = [undo for standardiser in self._each() if (undo := standardiser.undo()) is not None]
        if not found:
            return None
        factors, shifts, rotations = zip(*found, strict=True)
        turned = [rotation for rotation in rotations if rotation is not None]
        return torch.stack(factors), torch.stack(shifts), torch.stack(turned) if turned else None

    def observe(self, source: Tensor, target: Tensor) -> None:
        """Collect the statistics of a micro batch: features (..., parts * D), and what ``forward`` made of them."""
        parts = zip(self._each(), source.chunk(self.parts, dim=-1), target.chunk(self.parts, dim=-1), strict=True)
        for standardiser, features, standardised in parts:
            standardiser.observe(features, standardised)

    def statistics(self) -> dict[str, Statistics]:
        """Return the standardisers that have a state, by short name."""
        named = [("standardise" if self.parts == 1 else f"standardise_{i}", each) for i, each in enumerate(self._each())]
        return {name: standardiser for name, standardiser in named if standardiser.rounds}

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

    def flops(self, tokens: int) -> int:
        """Return the operations of standardisers that rotate."""
        return sum(standardiser.flops(tokens) for standardiser in self._each())

    def _apart(self, values: Tensor) -> Tensor:
        return values if self.parts == 1 else values.unflatten(-1, (self.parts, -1))

    def _each(self) -> list[Standardiser]:
        return [standardiser for standardiser in self.standardisers if isinstance(standardiser, Standardiser)]
