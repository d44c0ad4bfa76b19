"""Classifiers of which a part is trained: what is frozen, and the small file of what is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mvd_ds.config import AdaptationSettings, ConfigError, FinetuneRecipe, PreprocessingSettings, validate
from mvd_ds.files import one_line
from mvd_ds.models.classifiers.answers import read_task
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier
from mvd_ds.models.lora import CHILD, add_low_rank, merged

#: Trained tensors alone, beside the whole model: products of low rank, pooling, norm and head.
ADAPTATION_NAME = "adaptation.safetensors"


def freeze(model: Classifier, settings: AdaptationSettings) -> list[str]:
    """Freeze the encoder unless it is trained whole, and add products of low rank; return the names of these in ``model``."""
    if settings.kind == "full":
        return []
    model.encoder.requires_grad_(False)
    return [f"encoder.{name}" for name in add_low_rank(model.encoder, settings)] if settings.kind == "lora" else []


def classifier_of(recipe: FinetuneRecipe, classes: int) -> Classifier:
    """Return the classifier that a recipe trains, its weights not yet filled."""
    model = Classifier(recipe.model, recipe.grid, classes, dropout=recipe.dropout, pooling=recipe.pooling)
    freeze(model, recipe.adaptation)
    return model


def save_adapted(
    folder: str | Path,
    model: Classifier,
    weights: Mapping[str, Tensor],
    card: ClassifierCard,
    extra: Mapping[str, Any],
    settings: AdaptationSettings,
) -> None:
    """Write a classifier as ``save_classifier`` does, products merged; beside it what was trained, where that is not all.

    Args:
        folder: written aside, then put in place of what was there.
        model: the network; its own weights are not looked at, it may be sharded.
        weights: its state dict, whole, products among it.
        card: names and clips.
        extra: JSON values kept beside it.
        settings: which part was trained.

    Raises:
        ConfigError: if there are not as many names as classes, or the folder cannot be written.
    """
    if settings.kind == "full":
        save_classifier(folder, model, weights, card, extra)
        return
    trained = {name: value for name, value in weights.items() if not name.startswith("encoder.") or f".{CHILD}." in name}
    save_classifier(folder, model, merged(weights, settings.alpha / settings.rank), card, extra, {ADAPTATION_NAME: trained})


class Adaptation(NamedTuple):
    """The content of a file of trained tensors."""

    recipe: FinetuneRecipe
    """Recipe that they were trained by; its ``weights`` are what they belong to."""
    card: ClassifierCard
    tensors: dict[str, Tensor]


def read_adaptation(file: str | Path) -> Adaptation:
    """Return the tensors that were trained, and what they belong to.

    Raises:
        ConfigError: if it is no such file.
    """
    path = Path(file)
    try:
        with safe_open(path, framework="pt") as stored:
            config = json.loads((stored.metadata() or {}).get("config", "{}"))
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{path}: is not a readable {ADAPTATION_NAME}: {one_line(error, 120)}") from None
    if "finetuned_by" not in config:
        raise ConfigError(f"{path}: does not say how it was trained; give the {ADAPTATION_NAME} of a run of `finetune`")
    recipe = validate(config["finetuned_by"], str(path))
    assert isinstance(recipe, FinetuneRecipe)
    preprocessing = PreprocessingSettings.model_validate(config["preprocessing"])
    card = ClassifierCard(tuple(config["classes"]), preprocessing, config["label"], *read_task(config, path))
    return Adaptation(recipe, card, tensors)
