"""Our own model folders and files: ``model.safetensors`` and ``config.json``; and tokenizers of pixels, which hold an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, PoolingSettings, TrainingRecipe, dump, validate
from mvd_ds.config.tokenizers import card
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.files import one_line
from mvd_ds.models.formats.foreign import (
    LARGEST_CLASSES,
    LARGEST_DEPTH,
    LARGEST_SIDE,
    LARGEST_WIDTH,
    first_line,
    number,
    part,
    whole,
)
from mvd_ds.models.formats.rules import Ignored, Layout, Rule

FORMAT, VERSION = "mvd_ds", 1

OWN = Layout(
    name=FORMAT,
    title="mvd_ds",
    model="predictor",
    rules=(
        Rule("encoder.{rest}", "encoder.{rest}"),
        Rule("decoders.{rest}", "decoders.{rest}"),
        Rule("pooling.exponents", "pooling.exponents"),
        Rule("pooling.attention.{rest}", "pooling.attention.{rest}"),
        Rule("pooling.deeper.{rest}", "pooling.deeper.{rest}"),
        Rule("norm.{w}", "norm.{w}"),
        Rule("head.{w}", "head.{w}"),
    ),
    settings={},
    ignored=(
        Ignored("balance.log_variances", "weighs the losses of training: a model predicts without it"),
        Ignored("language.*", "the text tower, which `classify --words` opens by the folder of its run or of `export`"),
    ),
)

TOKENIZER = Layout(
    name=card.FORMAT,
    title="encoder of a tokenizer of pixels",
    model="encoder",
    rules=(Rule("pixels.{rest}", "encoder.{rest}"),),
    settings={},
    ignored=(
        Ignored("encoder.*", "from tokens to codes, which `target.codebook` reads"),
        Ignored("decoder.*", "from codes to what they were learned by"),
        Ignored("codebook.*", "the codes, which `target.codebook` reads"),
        Ignored("standardise.*", "scale of what the codes were learned by"),
    ),
)


def is_own(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is one of ours."""
    return config.get("format") == FORMAT


def is_tokenizer(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is one of a tokenizer."""
    return config.get("format") == card.FORMAT


def tokenizer_settings(config: Mapping[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the encoder and of the clip of a tokenizer of pixels.

    Raises:
        ConfigError: if it is damaged, or has no encoder of pixels.
    """
    recipe = validate(part(config, "recipe", origin), origin)
    if not isinstance(recipe, TokenizerRecipe) or not recipe.sees_pixels:
        raise ConfigError(f"{origin}: is a tokenizer of a teacher's tokens, and has no encoder of clips: it is a target.codebook")
    return _stated_by(recipe)


def recipe_of(config: Mapping[str, Any], origin: str) -> TrainingRecipe | None:
    """Return the recipe that a model folder was trained by; None where it was converted from another format.

    Raises:
        ConfigError: if the description is of another version, or its recipe is none of a stage one or a student.
    """
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        raise ConfigError(f"{origin}: is not the description of a model in format {FORMAT}, version {VERSION}")
    if "network" in config and not config.get("recipe"):
        return None
    recipe = validate(part(config, "recipe", origin), origin)
    if not isinstance(recipe, TrainingRecipe):
        raise ConfigError(
            f"{origin}: a checkpoint of objective {recipe.objective} is no model by itself; give the folder model of its run, "
            "or best where there is one"
        )
    return recipe


def stated_settings(config: Mapping[str, Any], recipe: TrainingRecipe | None, origin: str) -> dict[str, dict[str, Any]]:
    """Return the settings of encoder, decoder, classifier and clip that a folder of ours states."""
    if recipe is None:
        return _stated_network(part(config, "network", origin), origin)
    return {**_stated_by(recipe), "decoder": dump(recipe.decoder)}


def _stated_by(recipe: TrainingRecipe) -> dict[str, dict[str, Any]]:
    """Return the settings of encoder and clip of a recipe."""
    names = EncoderSettings.model_fields
    return {
        "encoder": {key: value for key, value in dump(recipe.model).items() if key in names},
        "clip": {"frames": recipe.data.clip.frames, "size_px": recipe.data.clip.size_px},
    }


def _stated_network(network: Mapping[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """Return the parts of a description that was written here, every value checked.

    Raises:
        ConfigError: if a value is none that was written here.
    """
    found = {name: part(network, name, origin) for name in network}
    for name, kind in (("encoder", EncoderSettings), ("decoder", DecoderSettings)):
        if name in found:
            _require_numbers(found[name], f"{origin}: network.{name}")
            try:
                kind.model_validate(found[name])
            except ValueError as error:
                raise ConfigError(f"{one_line(origin)}: network.{name}: {first_line(error)}") from None
    if "clip" in found:
        clip = found["clip"]
        found["clip"] = {key: whole(clip, key, 0, LARGEST_SIDE, f"{origin}: network.clip") for key in ("frames", "size_px")}
    if "classifier" in found:
        head, where = found["classifier"], f"{origin}: network.classifier"
        whole(head, "classes", 0, LARGEST_CLASSES, where)
        number(head, "norm_eps", 1e-6, 1e-30, 0.1, where)
        try:
            PoolingSettings.model_validate(part(head, "pooling", where))
        except ValueError as error:
            raise ConfigError(f"{one_line(where)}: pooling: {first_line(error)}") from None
    return found


def _require_numbers(values: Mapping[str, Any], origin: str) -> None:
    limits = {"embed_dim": LARGEST_WIDTH, "depth": LARGEST_DEPTH, "num_heads": LARGEST_WIDTH}
    limits |= {"patch_px": LARGEST_SIDE, "tubelet_frames": LARGEST_SIDE}
    for key, largest in limits.items():
        if values.get(key) is not None:
            whole(values, key, 1, largest, origin, least=0 if key == "depth" else 1)
    whole(values, "registers", 0, LARGEST_WIDTH, origin, least=0)
    number(values, "mlp_ratio", 4.0, 1e-3, 1e3, origin)


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
