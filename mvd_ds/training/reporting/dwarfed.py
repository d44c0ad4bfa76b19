"""The hint to ``balance``: one target's loss is so large in the total that another's hardly counts."""

from __future__ import annotations

from collections.abc import Mapping

from mvd_ds.config import LearningRecipe, TrainingRecipe

RATIO = 20.0
"""Ratio of two weighted losses from which on the smaller is 5 % of the larger, and hardly moves the student."""


def dwarfed_targets(recipe: LearningRecipe, losses: Mapping[str, float]) -> str | None:
    """Return a line if fixed weights leave a teacher's target with hardly a part in the total; None if all of them count.

    Args:
        recipe: the run; a class head beside the targets is small on purpose, and so is a weight of 0.
        losses: loss of each target by name, without its weight.
    """
    if not isinstance(recipe, TrainingRecipe) or recipe.balance != "fixed":
        return None
    parts = {}
    for name, output in recipe.outputs.items():
        if output.teacher is None or output.target is None or name not in losses:  # a tokenizer's losses are its own
            continue
        weight = recipe.teachers[output.teacher].weight if output.target.weight is None else output.target.weight
        if weight > 0:
            parts[name] = weight * losses[name]
    if len(parts) < 2:
        return None
    largest, smallest = (pick(parts, key=parts.__getitem__) for pick in (max, min))
    if parts[largest] < RATIO * parts[smallest]:
        return None
    kinds = {output.target.kind for output in recipe.outputs.values() if output.target is not None}
    remedy = "balance=loss_relative brings targets to one scale, and so does target.standardise"
    if kinds & {"codes", "prototypes"}:  # which loss_relative refuses
        remedy = "teachers.NAME.weight brings them to one scale"
    return (
        f"the loss of {largest}, {parts[largest]:.3g} with its weight, dwarfs that of {smallest}, {parts[smallest]:.3g}: {remedy}"
    )
