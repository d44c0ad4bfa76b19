"""The text tower of a folder of transformers, by our own modules: its tensors by our names, and the tower alone for prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import ConfigError, LanguageSettings, TextSettings
from mvd_ds.config.networks.text_folder import text_folder_of
from mvd_ds.files import one_line
from mvd_ds.models.formats.containers import INDEX_NAME, PICKLED_NAME, WEIGHTS_NAME, open_stored
from mvd_ds.models.formats.strict import load_strictly, require_fit
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.linear import Linear
from mvd_ds.models.text.head import text_projection
from mvd_ds.models.text.tower import Between, TextTower

#: The table whose place in a file says where the tower is.
_TOKENS = "embeddings.token_embedding.weight"
#: Tensors of a tower by our names, in a folder's words.
_NAMES = {
    "embed.weight": _TOKENS,
    "position.weight": "embeddings.position_embedding.weight",
    "norm.weight": "final_layer_norm.weight",
    "norm.bias": "final_layer_norm.bias",
}
#: Parts of a block by our names; the first is three in a folder.
_OF_BLOCK = {
    "attention.qkv": "self_attn.{}_proj",
    "attention.projection": "self_attn.out_proj",
    "norm_attention": "layer_norm1",
    "norm_mlp": "layer_norm2",
    "mlp.expand": "mlp.fc1",
    "mlp.contract": "mlp.fc2",
}


class FolderTensors(NamedTuple):
    """Tensors of a folder, fp32."""

    tower: dict[str, Tensor]
    """By the names of a ``TextTower``."""
    projection: dict[str, Tensor]
    """``weight``, and ``bias`` of a SigLIP."""
    scale: Tensor
    """Logarithm of the factor of cosines, and what is added to them where there is that; empty where there is no factor."""


class FolderText(nn.Module):
    """The text tower of a folder with its projection: rows of numbers, or of vectors in their place, -> unit vectors.

    Args:
        settings: with ``weights``.
    """

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        folder = settings.folder
        assert folder is not None, "weights name a folder"
        self.tower = TextTower(settings)
        self.projection: Linear = text_projection(settings, folder.width, folder.embed_dim)
        self.scale, self.bias = 1.0, 0.0
        """Factor of cosines, and what is added to them."""

    def embed(self, numbers: Tensor) -> Tensor:
        """Return the vectors (B, L, D) of token numbers, int64 (B, L), without those of their places."""
        return self.tower.embed(numbers)

    def encode(self, numbers: Tensor, embedded: Tensor | None = None, between: Between | None = None) -> Tensor:
        """Return unit vectors (B, E), fp32, of texts; arguments as of ``TextTower``. Gradients reach ``embedded``."""
        return functional.normalize(self.projection(self.tower(numbers, (), embedded, between)).float(), dim=-1)

    forward = encode


def open_text(weights: str) -> FolderText:
    """Return the frozen text tower of a folder of transformers, or of a name in the user's cache; fp32, on the CPU.

    Raises:
        ConfigError: in one line, as ``text_tensors``.
    """
    settings = TextSettings(weights=weights)
    found = text_tensors(settings)
    model = build_without_weights(lambda: FolderText(settings))
    load_strictly(model.tower, found.tower, f"language.text.weights {one_line(weights)}")
    load_strictly(model.projection, found.projection, f"language.text.weights {one_line(weights)}")
    if len(found.scale):
        model.scale = float(found.scale[0].exp())
    if len(found.scale) > 1:
        model.bias = float(found.scale[1])
    return model.requires_grad_(False).eval()


def language_tensors(language: LanguageSettings) -> dict[str, Tensor]:
    """Return the tensors that a student takes from ``language.text.weights``, by its own names.

    Scale and bias are among them where the folder has all that the loss asks for, and no scale is stated.

    Raises:
        ConfigError: in one line, as ``text_tensors``.
    """
    found = text_tensors(language.text)
    named = {f"language.text.{name}": value for name, value in found.tower.items()}
    named |= {f"language.text_projection.{name}": value for name, value in found.projection.items()}
    wanted = {"softmax": 1, "sigmoid": 2}[language.loss]
    if language.scale is None and len(found.scale) >= wanted:
        named["language.scale.values"] = found.scale[:wanted]
    return named


def text_tensors(settings: TextSettings) -> FolderTensors:
    """Return the tensors of the text tower of ``weights``, found to fit it; what else the folder holds is left there.

    Raises:
        ConfigError: in one line, if there is no such folder, it holds a pickle alone, or tensors are missing or misfit.
    """
    assert settings.weights is not None
    place, shape = text_folder_of(settings.weights), settings.folder
    assert shape is not None
    origin = f"language.text.weights {one_line(place)}"
    if not (place / WEIGHTS_NAME).is_file() and not (place / INDEX_NAME).is_file():
        held = f"holds its weights as a pickle ({PICKLED_NAME})" if (place / PICKLED_NAME).is_file() else "holds no weights"
        raise ConfigError(f"{origin}: {held}, and {WEIGHTS_NAME} alone is read; write it by save_pretrained of transformers")
    stored = open_stored(place).tensors
    named = sorted(name for name in stored if name == _TOKENS or name.endswith(f".{_TOKENS}"))
    if len(named) != 1:
        raise ConfigError(f"{origin}: holds {len(named)} tables of text tokens (..{_TOKENS}), not one")
    prefix = named[0].removesuffix(_TOKENS)

    def take(name: str) -> Tensor:
        if name not in stored:
            raise ConfigError(f"{origin}: has no tensor {one_line(name)}; give a whole folder with text tower and projection")
        return stored[name].float()

    tower = {ours: take(prefix + theirs) for ours, theirs in _NAMES.items()}
    for number in range(shape.depth):
        tower |= _block(take, number, f"{prefix}encoder.layers.{number}.")
    if shape.family == "clip":
        projection = {"weight": take("text_projection.weight")}
    else:
        projection = {kind: take(f"{prefix}head.{kind}") for kind in ("weight", "bias")}
    with torch.device("meta"):
        require_fit(TextTower(settings), tower, origin)
        require_fit(text_projection(settings, shape.width, shape.embed_dim), projection, origin)
    return FolderTensors(tower, projection, _scale(stored))


def _block(take: Callable[[str], Tensor], number: int, prefix: str) -> dict[str, Tensor]:
    found = {}
    for ours, theirs in _OF_BLOCK.items():
        for kind in ("weight", "bias"):
            parts = [take(f"{prefix}{theirs.format(part)}.{kind}") for part in ("qkv" if "{}" in theirs else " ")]
            found[f"blocks.{number}.{ours}.{kind}"] = torch.cat(parts)
    return found


def _scale(stored: Mapping[str, Tensor]) -> Tensor:
    found = [stored[name].float().flatten() for name in ("logit_scale", "logit_bias") if name in stored]
    return torch.cat(found) if "logit_scale" in stored else torch.empty(0)
