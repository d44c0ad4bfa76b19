"""The student of a recipe: the network of the models room with heads as wide as the targets of the objectives room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.flops import ClipFlops, clip_flops
from mvd_ds.models.formats.containers import read_safetensors
from mvd_ds.models.formats.strict import copy_strictly, load_strictly
from mvd_ds.models.init_from_checkpoint import starting_tensors
from mvd_ds.models.initialisation import build_without_weights, initialise_module
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.text.folder import language_tensors
from mvd_ds.models.weights import TARGET_STATISTICS_NAME, model_file, read_recipe
from mvd_ds.objectives.moving_statistics import load_statistics
from mvd_ds.objectives.targets import Target, build_targets, head_shapes, target_statistics


def plan_predictor(recipe: TrainingRecipe) -> Blueprint[MaskedPredictor]:
    """Return the student of a recipe with its initial weights, which depend on ``run.seed`` and ``init``, before it takes memory.

    Raises:
        ConfigError: if a teacher's name cannot be the name of a decoder, or ``init.weights`` or ``language.text.weights`` do
            not fit.
    """
    heads = head_shapes(recipe)
    for name in heads:
        if hasattr(nn.ModuleDict, name):
            raise ConfigError(f"teachers.{name}: this name is taken by torch; choose another, {name}_teacher for example")

    def construct() -> MaskedPredictor:
        return MaskedPredictor(recipe.model, recipe.grid, heads, recipe.balance == "uncertainty", recipe.language)

    drawn = Blueprint(construct, lambda name, module: initialise_module(name, module, recipe.run.seed))
    loaded: dict[str, Tensor] = {}
    origins = []
    if recipe.init is not None:
        loaded |= starting_tensors(recipe.init, drawn.structure, recipe.grid)
        origins.append(f"init.weights {recipe.init.weights}")
    if recipe.language is not None and recipe.language.text.weights is not None:
        loaded |= language_tensors(recipe.language)
        origins.append(f"language.text.weights {recipe.language.text.weights}")
    if not loaded:
        return drawn

    def fill(name: str, module: nn.Module) -> None:
        own = {key: f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)}
        if any(place in loaded for place in own.values()):
            copy_strictly(module, {key: loaded[place] for key, place in own.items()}, ", ".join(origins))
        else:
            drawn.fill(name, module)

    return Blueprint(construct, fill)


def build_predictor(recipe: TrainingRecipe) -> MaskedPredictor:
    """Return the student of ``plan_predictor``, built: fp32, on the CPU.

    Raises:
        ConfigError: as ``plan_predictor``.
    """
    return plan_predictor(recipe).build()


def load_predictor(folder: str | Path) -> tuple[MaskedPredictor, TrainingRecipe]:
    """Return the student of a folder that ``save_model`` wrote, and its recipe; fp32, on the CPU.

    Raises:
        ConfigError: if the folder is not such a folder, or its weights do not fit its recipe.
    """
    recipe = read_recipe(folder)
    weighs = recipe.balance == "uncertainty"
    model = build_without_weights(
        lambda: MaskedPredictor(recipe.model, recipe.grid, head_shapes(recipe), weighs, recipe.language)
    )
    load_strictly(model, read_safetensors(model_file(folder, "model"))[0], str(folder))
    return model, recipe


def load_target_statistics(folder: str | Path, targets: Mapping[str, Target]) -> None:
    """Fill the statistics of targets from a model folder that ``save_model`` wrote; without any, nothing is read.

    Raises:
        ConfigError: if the folder does not have them, or has those of other targets.
    """
    parts = target_statistics(targets)
    if not parts:
        return
    path = Path(model_file(folder, "model")).parent / TARGET_STATISTICS_NAME
    state = read_safetensors(path)[0] if path.is_file() else {}
    own = tuple(f"{name}." for name in parts)
    load_statistics(parts, {key: value for key, value in state.items() if key.startswith(own)}, str(path))


def recipe_flops(recipe: TrainingRecipe) -> ClipFlops:
    """Return the operations of a recipe's networks for one clip, by part."""
    return clip_flops(recipe, build_targets(recipe))


def students_flops(recipes: Sequence[TrainingRecipe]) -> int:
    """Return the operations per clip of a training step of several students: each as alone, but the teachers' pass once."""
    counts = [recipe_flops(recipe) for recipe in recipes]
    return sum(count.training for count in counts) - (len(counts) - 1) * sum(counts[0].teachers.values())
