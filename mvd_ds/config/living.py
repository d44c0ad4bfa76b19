"""Teachers that are the moving average of the student's own weights: their architecture is the student's."""

from __future__ import annotations

from typing import Any

from mvd_ds.config.networks.encoder import EncoderSettings
from mvd_ds.config.teachers import EMA


def with_students_sizes(values: Any) -> Any:
    """Return a recipe's values, with those of ``model`` in every teacher whose weights are ``ema``, unless it states its own."""
    if not isinstance(values, dict) or not isinstance(values.get("teachers"), dict) or not isinstance(values.get("model"), dict):
        return values
    teachers = {
        name: {**values["model"], **teacher} if isinstance(teacher, dict) and teacher.get("weights") == EMA else teacher
        for name, teacher in values["teachers"].items()
    }
    return {**values, "teachers": teachers}


def require_living_teachers(recipe: Any) -> None:
    """Check that the teachers of a ``TrainingRecipe`` whose weights are ``ema`` can follow its student.

    Raises:
        ValueError: in one line, if they cannot.
    """
    for name, teacher in recipe.teachers.items():
        if not teacher.is_ema:
            continue
        if recipe.optimizer.ema_decay is None:
            raise ValueError(f"teachers.{name}.weights ema needs optimizer.ema_decay: state one, 0.996 for example")
        odd = [key for key in EncoderSettings.model_fields if getattr(teacher, key) != getattr(recipe.model, key)]
        if odd or teacher.network is not None:
            stated = "network" if teacher.network is not None else ", ".join(odd)
            raise ValueError(f"teachers.{name}.weights ema has the student's own architecture: remove {stated}")
        if recipe.students:
            raise ValueError(f"teachers.{name}.weights ema is the average of one student: remove students, or train each alone")
        if recipe.targets.cache is not None:
            raise ValueError(f"teachers.{name}.weights ema: a teacher that learns cannot be cached, what it gives changes")
        if teacher.fp8:
            raise ValueError(f"teachers.{name}.fp8 rounds weights once, and those of weights ema change at every step: remove it")
        if teacher.placement == "zero3_nvme":
            raise ValueError(
                f"teachers.{name}.placement zero3_nvme writes to a disk what changes at every step: choose zero3_offload"
            )
