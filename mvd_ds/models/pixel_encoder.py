"""An encoder of clips as they are decoded, and the folder that it is exported to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mvd_ds.config import PreprocessingSettings, dump
from mvd_ds.models.building import network_of
from mvd_ds.models.classifiers.classifier import PixelInput
from mvd_ds.models.classifiers.pooling import clip_features
from mvd_ds.models.formats.own import description
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import write_folder


class PixelEncoder(PixelInput):
    """A frozen encoder that normalises uint8 clips itself and returns one vector for each.

    Args:
        encoder: network that takes normalised clips.
        preprocessing: mean and deviation of its clips.
    """

    def __init__(self, encoder: VisionTransformer, preprocessing: PreprocessingSettings) -> None:
        super().__init__(preprocessing)
        self.encoder = encoder

    def forward(self, clip: Tensor) -> Tensor:
        """Return features (B, D) of uint8 clips (B, C, T, H, W): the mean of all tokens after the final norm."""
        return clip_features(self.encoder, self.normalised(clip, next(self.encoder.parameters()).dtype))


def save_encoder(
    folder: Path,
    encoder: VisionTransformer,
    preprocessing: PreprocessingSettings,
    extra: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
    copied: Mapping[str, bytes] | None = None,
) -> None:
    """Write a folder that ``mvd_ds.load`` opens as an encoder: ``model.safetensors``, ``config.json`` and other files.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    network = network_of(encoder)
    config = description(network.encoder, None, None, network.clip, "an encoder")
    config |= {"preprocessing": dump(preprocessing), **extra}
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    write_folder(folder, weights, config, {"config": json.dumps(config)}, more, copied=copied)
