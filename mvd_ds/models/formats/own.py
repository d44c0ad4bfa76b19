"""Our own model folders and files: ``model.safetensors`` and ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, TrainingRecipe, dump, validate
from mvd_ds.models.formats.rules import Layout, Rule

FORMAT, VERSION = "mvd_ds", 1

OWN = Layout(
    name=FORMAT,
    title="mvd_ds",
    model="predictor",
    rules=(
        Rule("encoder.{rest}", "encoder.{rest}"),
        Rule("decoders.{rest}", "decoders.{rest}"),
        Rule("pooling.exponents", "pooling.exponents"),
        Rule("norm.{w}", "norm.{w}"),
        Rule("head.{w}", "head.{w}"),
    ),
    settings={},
)


def is_own(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is one of ours."""
    return config.get("format") == FORMAT


def recipe_of(config: Mapping[str, Any], origin: str) -> TrainingRecipe | None:
    """Return the recipe that a model folder was trained by; None where it was converted from another format.

    Raises:
        ConfigError: if the description is of another version, or its recipe trains no model.
    """
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        raise ConfigError(f"{origin}: is not the description of a model in format {FORMAT}, version {VERSION}")
    if "network" in config and not config.get("recipe"):
        return None
    recipe = validate(config.get("recipe") or {}, origin)
    if not isinstance(recipe, TrainingRecipe):
        raise ConfigError(f"{origin}: objective {recipe.objective} trains no model")
    return recipe


def stated_settings(config: Mapping[str, Any], recipe: TrainingRecipe | None) -> dict[str, dict[str, Any]]:
    """Return the settings of encoder, decoder, classifier and clip that a folder of ours states."""
    if recipe is None:
        return {part: dict(values) for part, values in config["network"].items()}
    names = EncoderSettings.model_fields
    return {
        "encoder": {key: value for key, value in dump(recipe.model).items() if key in names},
        "decoder": dump(recipe.decoder),
        "clip": {"frames": recipe.data.clip.frames, "size_px": recipe.data.clip.size_px},
    }


def description(
    encoder: EncoderSettings,
    decoder: DecoderSettings | None,
    classifier: dict[str, Any] | None,
    clip: dict[str, int],
    source: str,
) -> dict[str, Any]:
    """Return the ``config.json`` of a model that was converted: a network without a recipe."""
    network = {"encoder": dump(encoder), "clip": clip}
    if decoder is not None:
        network["decoder"] = dump(decoder)
    if classifier is not None:
        network["classifier"] = classifier
    return {"format": FORMAT, "version": VERSION, "network": network, "converted_from": source}
