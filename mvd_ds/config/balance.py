"""The checks of which teachers count how much for which clips, against the rest of a recipe."""

from __future__ import annotations

from typing import Any


def require_balance(recipe: Any) -> None:
    """Check that the teachers of a ``TrainingRecipe`` can be balanced, dropped and standardised as it asks.

    Raises:
        ValueError: in one line, if they cannot.
    """
    if recipe.pixels is not None and (recipe.balance != "fixed" or recipe.drop_teachers):
        raise ValueError("balance and drop_teachers are for teachers, and stage one has none: remove them")
    if recipe.drop_teachers and len(recipe.teachers) < 2:
        raise ValueError(f"drop_teachers {recipe.drop_teachers} needs two teachers or more; with one, set it to 0")
    clips = -(-recipe.calibration_clips // recipe.batch.global_) * recipe.batch.global_
    for name, output in recipe.outputs.items():
        width = recipe.teachers[output.teacher].embed_dim if output.teacher is not None else 0
        if output.target is None or output.target.standardise != "phi_s":
            continue
        joined = len(set(output.target.blocks)) if output.target.mode == "concat" else 1
        if clips * recipe.predicted_tokens <= joined * width:
            raise ValueError(
                f"standardise phi_s of {name} needs more tokens than its {joined * width} channels, and {clips} clips have "
                f"{clips * recipe.predicted_tokens}: raise calibration_clips, or choose standardise running"
            )


def require_picture_sources(recipe: Any) -> None:
    """Check that sources whose pictures go to image teachers alone are those of a distillation that can tell teachers apart.

    Raises:
        ValueError: in one line, if they are not.
    """
    if all(source.images == "repeated" for source in recipe.data.sources):
        return
    option = "data.sources with images image_teachers"
    kinds = {teacher.kind for teacher in getattr(recipe, "teachers", {}).values()}
    if len(kinds) < 2:
        raise ValueError(f"{option} are for a teacher of kind image beside another one: choose repeated")
    if recipe.balance != "fixed" or recipe.drop_teachers:
        raise ValueError(f"{option} need balance fixed and drop_teachers 0, whose means are of all samples")
    for name, output in recipe.outputs.items():
        if output.target is None or output.teacher is None or recipe.teachers[output.teacher].kind == "image":
            continue
        if output.target.kind == "prototypes" or output.target.standardised_by not in ("none", "token"):
            raise ValueError(
                f"{option}: the target of {name} has statistics of all samples; choose standardise none or token, no prototypes"
            )
