"""Targets: what a student learns to predict. One file for each kind, and one row in ``TARGETS``.

=================  ======================================================================
``target``         ``Target``: the base class, what every kind has to know
``features``       features of a teacher, standardised or as they are
``summary``        one vector of a clip from a teacher
``pixels``         pixels of a patch, which need no teacher
``relations``      attention of a teacher's block, and cosines between its tokens
``prototypes``     what patches and the class token are assigned to
``labels``         the class of a clip, where it has one
``codes``          the codes of a frozen tokenizer
``gathering``      the choice of the masked tokens
=================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mvd_ds.config import HeadShape, TrainingRecipe
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.standardisers import normalise_tokens, standardised
from mvd_ds.objectives.targets.codes import CodeTarget
from mvd_ds.objectives.targets.features import FeatureTarget
from mvd_ds.objectives.targets.gathering import gather_masked
from mvd_ds.objectives.targets.labels import LabelTarget
from mvd_ds.objectives.targets.pixels import PixelTarget, patchify, pixel_targets, predicted_pixels, unpatchify
from mvd_ds.objectives.targets.prototypes import PrototypeTarget
from mvd_ds.objectives.targets.relations import RelationTarget, TokenRelationTarget
from mvd_ds.objectives.targets.summary import SummaryTarget
from mvd_ds.objectives.targets.target import Places, Target

__all__ = [
    "TARGETS",
    "Places",
    "Target",
    "build_targets",
    "gather_masked",
    "head_shapes",
    "normalise_tokens",
    "patchify",
    "pixel_targets",
    "predicted_pixels",
    "standardised",
    "target_statistics",
    "unpatchify",
]

TARGETS: dict[str, Callable[[TrainingRecipe, str], Target]] = {
    "features": FeatureTarget,
    "summary": SummaryTarget,
    "pixels": PixelTarget,
    "relations": RelationTarget,
    "token_relations": TokenRelationTarget,
    "prototypes": PrototypeTarget,
    "labels": LabelTarget,
    "codes": CodeTarget,
}
"""Every kind of target: kind -> (recipe, name of the target) -> the target."""


def build_targets(recipe: TrainingRecipe) -> dict[str, Target]:
    """Return the targets of a recipe by name: those of each teacher, or ``pixels`` in stage one.

    Raises:
        ConfigError: if a loss does not fit its target.
    """
    return {name: TARGETS[_kind(recipe, name)](recipe, name) for name in recipe.decoder_names}


def target_statistics(targets: Mapping[str, Target]) -> dict[str, Statistics]:
    """Return the statistics of all targets by dotted name."""
    return {f"{name}.{key}": part for name, target in targets.items() for key, part in target.statistics().items()}


def head_shapes(recipe: TrainingRecipe) -> dict[str, HeadShape]:
    """Return what each target of a recipe asks of the student, by the target's name."""
    return {name: target.head for name, target in build_targets(recipe).items()}


def _kind(recipe: TrainingRecipe, name: str) -> str:
    target = recipe.outputs[name].target
    if target is None:
        return name
    return target.kind
