"""Models from descriptions and from files, and their descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, HeadShape, PoolingSettings, dump
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.formats import Checkpoint, Network, describe, read_checkpoint
from mvd_ds.models.formats.containers import CONFIG_NAME, read_safetensors
from mvd_ds.models.formats.describe import differences
from mvd_ds.models.formats.foreign import read_object
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import Teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import fill_encoder, fill_model, log_checkpoint

Model = MaskedPredictor | VisionTransformer | Classifier


def build_network(network: Network) -> Model:
    """Return the model of a description, its weights not yet filled; fp32, on the CPU."""

    def construct() -> Model:
        if network.classifier is not None:
            head = network.classifier
            pooling = PoolingSettings.model_validate(head["pooling"])
            return Classifier(network.encoder, network.grid, head["classes"], head["norm_eps"], pooling=pooling)
        if network.heads:
            return MaskedPredictor(network.encoder, network.grid, network.heads)
        if network.outputs:
            decoder = network.decoder or DecoderSettings()
            heads = {name: HeadShape(width, decoder) for name, width in network.outputs.items()}
            return MaskedPredictor(network.encoder, network.grid, heads)
        return VisionTransformer(network.encoder, network.grid)

    return build_without_weights(construct)


def network_of(model: Model) -> Network:
    """Return the description of a model."""
    encoder = model if isinstance(model, VisionTransformer) else model.encoder
    slots, rows, _ = encoder.grid
    clip = {"frames": slots * encoder.settings.tubelet_frames, "size_px": rows * encoder.settings.patch_px}
    settings = EncoderSettings.model_validate({key: getattr(encoder.settings, key) for key in EncoderSettings.model_fields})
    if isinstance(model, Classifier):
        head = {"classes": model.head.out_features, "norm_eps": model.norm.eps, "pooling": dump(model.pooling.settings)}
        return Network(settings, None, {}, head, clip)
    if isinstance(model, MaskedPredictor):
        if not model.is_published:
            return Network(settings, None, {}, None, clip, model.heads)
        return Network(settings, model.decoder_settings, model.outputs, None, clip)
    return Network(settings, None, {}, None, clip)


def open_model(
    source: str | Path | Mapping[str, Any],
    format: str | None = None,
    encoder: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    clip: dict[str, int] | None = None,
) -> tuple[Model, Checkpoint]:
    """Return the model that a file holds, with its weights; in ``eval()``, fp32, on the CPU.

    Args:
        source: file, folder or state dict in any known layout.
        format: the layout; None: it is detected.
        encoder: encoder settings that the file does not determine: ``{"num_heads": 3}``.
        decoder: the same of its decoders.
        clip: ``{"frames": 16, "size_px": 224}`` to build it for; position tables follow.

    Raises:
        ConfigError: if the file is not whole, or does not say enough.
    """
    checkpoint = read_checkpoint(source, format)
    model = build_network(describe(checkpoint, encoder, decoder, clip))
    fill(model, checkpoint)
    _log(model, checkpoint)
    return model.eval(), checkpoint


def load_into(model: Model | Teacher, source: str | Path | Mapping[str, Any], format: str | None = None) -> Checkpoint:
    """Fill a model that exists from a file, folder or state dict, and tell what went where.

    An encoder or a teacher takes the encoder of a file that holds more; anything else has to match whole.

    Raises:
        ConfigError: if the file is another network or is not whole; every difference is named.
    """
    checkpoint = read_checkpoint(source, format)
    encoder = model if isinstance(model, VisionTransformer) else model.encoder
    if not isinstance(encoder, VisionTransformer):
        raise ConfigError(f"{checkpoint.origin}: a network of another family takes its weights when it is built")
    wrong = differences(checkpoint, encoder.settings)
    if wrong:
        raise ConfigError(f"{checkpoint.origin}: another architecture: {'; '.join(wrong).replace('the recipe', 'the model')}")
    if isinstance(model, Teacher):
        _forget_what_is_not_read(model, checkpoint)
    filled = encoder if isinstance(model, Teacher) else model
    fill(filled, checkpoint)
    _log(filled, checkpoint)
    return checkpoint


def fill(model: Model, checkpoint: Checkpoint) -> None:
    """Fill a model from a file that was read, strictly."""
    if isinstance(model, VisionTransformer):
        fill_encoder(model, checkpoint, checkpoint.origin)
    else:
        fill_model(model, checkpoint, model.encoder.grid, checkpoint.origin)


def _log(model: Model, checkpoint: Checkpoint) -> None:
    encoder = model if isinstance(model, VisionTransformer) else model.encoder
    log_checkpoint(checkpoint, checkpoint.origin, encoder.grid)


def _forget_what_is_not_read(teacher: Teacher, checkpoint: Checkpoint) -> None:
    """Leave out blocks behind the last one that a teacher reads, and a norm that it does not apply."""
    last = teacher.read_blocks[-1]
    for name in list(checkpoint.state):
        part = name.removeprefix("encoder.")
        is_behind = part.startswith("blocks.") and int(part.split(".")[1]) > last
        if is_behind or (part.startswith("norm.") and isinstance(teacher.encoder.norm, nn.Identity)):
            del checkpoint.state[name]


def open_encoder(weights: str | Path, frames: int, size_px: int, format: str | None = None) -> VisionTransformer:
    """Return the encoder of a file or folder in any known layout, for clips of a geometry, in ``eval()``.

    Args:
        weights: file or folder.
        frames: frames of a clip; an image encoder takes one at a time.
        size_px: side of a clip.
        format: the layout; None: it is detected.

    Raises:
        ConfigError: if it cannot be read, does not say enough, or does not fit the geometry.
    """
    checkpoint = read_checkpoint(weights, format)
    network = describe(checkpoint, clip={"frames": frames, "size_px": size_px})
    try:
        grid = network.grid
    except ValueError as error:
        raise ConfigError(f"{weights}: {error}") from None
    encoder = build_without_weights(lambda: VisionTransformer(network.encoder, grid))
    fill(encoder, checkpoint)
    _log(encoder, checkpoint)
    return encoder.eval()


def is_run_model(weights: str | Path) -> bool:
    """Return whether this is the model folder of a run (or nothing at all), which has a recipe."""
    path = Path(weights)
    if path.is_dir() and (path / CONFIG_NAME).is_file():
        config = read_object(path / CONFIG_NAME)
        return "recipe" in config or not ({"model_type", "architecture", "network"} & config.keys())
    if path.suffix == ".safetensors" and path.is_file():
        return "recipe" in read_safetensors(path)[1]
    return not path.exists()
