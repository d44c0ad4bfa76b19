"""Targets that are one vector of a clip: a teacher's class token, or the mean of its patch tokens."""

from __future__ import annotations

from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.targets.dispersion import AngularDispersion
from mvd_ds.objectives.targets.target import Places, Target, taught


class SummaryTarget(Target):
    """The summary of one teacher, by default compared by its angle, in units of the teacher's own dispersion.

    Teachers spread their summaries over cones of unlike widths, and the same angle means more in a narrow one. Source:
    C-RADIOv4 (arXiv 2601.17237). Differs: the dispersion is that of the first clips of the training order.

    Args:
        recipe: the run.
        name: name of the target.
    """

    is_tokenwise = False

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        output, teacher, target, weight = taught(recipe, name)
        super().__init__(name, output.head(teacher.embed_dim), target.loss or "angle", weight)
        self.dispersion = AngularDispersion(teacher.embed_dim) if self.loss == "angle" else None

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss, a scalar in fp32, between predictions (B*K, D) and their targets."""
        loss = super().compare(prediction, target, places)
        return loss if self.dispersion is None else loss / self.dispersion.dispersion

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,)."""
        rows = super().rows(prediction, target, places)
        return rows if self.dispersion is None else rows / self.dispersion.dispersion

    def trivial_loss(self, target: Tensor) -> Tensor:
        """Return the loss of the mean target everywhere, in the units of ``compare``."""
        loss = super().trivial_loss(target)
        return loss if self.dispersion is None else loss / self.dispersion.dispersion

    def observe(self, source: Tensor, target: Tensor) -> None:
        """Collect the directions of a micro batch of summaries (B, D)."""
        if self.dispersion is not None:
            self.dispersion.observe(source)

    def statistics(self) -> dict[str, Statistics]:
        """Return the dispersion, where angles are measured by it."""
        return {} if self.dispersion is None else {"dispersion": self.dispersion}
