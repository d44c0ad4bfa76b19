"""``pretrain`` and ``distill``: both train a MaskedPredictor, they differ in who makes the targets."""

from __future__ import annotations

from mvd_ds.config import TrainingRecipe
from mvd_ds.runs.building import build_trainer
from mvd_ds.runs.in_cluster import run_in_cluster
from mvd_ds.runs.students import train_students


def train(recipe: TrainingRecipe, name: str) -> int:
    """Train the recipe ``name``, or all its students, to its end, from its newest checkpoint if there is one.

    Returns:
        Exit code of where it stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    if recipe.students:
        return train_students(recipe, name)
    return run_in_cluster(recipe, name, lambda folder, cluster: build_trainer(recipe, folder, cluster))
