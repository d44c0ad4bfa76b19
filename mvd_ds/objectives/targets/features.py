"""Targets that are the features of a teacher, as the teacher gives them."""

from __future__ import annotations

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.targets.target import Target


class FeatureTarget(Target):
    """The features of one teacher. Source: MVD, the last block before the final norm.

    Args:
        recipe: the run.
        name: name of the teacher.
    """

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        teacher = recipe.teachers[name]
        super().__init__(name, teacher.embed_dim, teacher.loss, teacher.weight)
