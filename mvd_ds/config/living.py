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
        _require_prototypes(recipe, name, teacher)
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


def _require_prototypes(recipe: Any, name: str, teacher: Any) -> None:
    """Check the targets of prototypes of one teacher.

    Raises:
        ValueError: in one line.
    """
    for target in teacher.targets.values():
        if target.kind != "prototypes":
            continue
        head, patch_px = target.prototypes, recipe.model.patch_px
        if not teacher.is_ema:
            raise ValueError(f"teachers.{name}: kind prototypes needs weights ema: no other teacher has a head of prototypes")
        if not recipe.model.cls_token:
            raise ValueError(f"teachers.{name}: kind prototypes needs model.cls_token=true")
        if target.blocks[0] % teacher.depth != teacher.depth - 1:
            raise ValueError(
                f"teachers.{name}: the head of kind prototypes reads the student's last block, and blocks is "
                f"{list(target.blocks)}: remove it"
            )
        if recipe.balance == "loss_relative":
            raise ValueError(
                f"teachers.{name}: balance loss_relative follows a mean of features, and kind prototypes has none: choose fixed"
            )
        if sum(output.target is not None and output.target.kind == "prototypes" for output in recipe.outputs.values()) > 1:
            raise ValueError(f"teachers.{name}: one target may be of kind prototypes, there are several")
        if head.local_crops and (head.local_px % patch_px or not 0 < head.local_px <= recipe.data.clip.size_px):
            raise ValueError(
                f"teachers.{name}: prototypes.local_px {head.local_px} must be a multiple of model.patch_px {patch_px}, at most "
                f"data.clip.size_px {recipe.data.clip.size_px}"
            )
        if head.local_crops and recipe.masks_per_clip > 1:
            raise ValueError(
                f"teachers.{name}: local_crops are of a clip, and each of masking.masks_per_clip {recipe.masks_per_clip} "
                "masks would have them: choose 1, or local_crops 0"
            )
