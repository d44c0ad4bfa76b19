"""Text towers in folders of transformers (CLIP, SigLIP, SigLIP 2): their sizes and where they are read, from JSON alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mvd_ds.config.networks.hf_folder import find_folder, read_config
from mvd_ds.files import ConfigError, one_line

#: Activations of transformers, by their names in ``config.json``, as rows of ``models.blocks.mlps.MLPS``.
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
#: What configs leave out. Source: CLIPTextConfig, SiglipTextConfig and Siglip2TextConfig of transformers 5.24.
_CLIP: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_SIGLIP: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
DEFAULTS = {"clip": _CLIP, "siglip": _SIGLIP, "siglip2": _SIGLIP}
"""By family, whose ``model_type`` may end in ``_text_model``."""
LEGACY_END = 2
"""``eos_token_id`` of old configs of CLIP, which is not that of its tokenizer: there the end of a text is its largest number."""


class TextFolder(NamedTuple):
    """The text tower that a folder describes."""

    family: str
    """clip, siglip or siglip2."""
    width: int
    depth: int
    heads: int
    hidden: int
    """Width inside of its MLPs."""
    mlp: str
    """Activation: gelu, quick_gelu or gelu_tanh."""
    eps: float
    """Epsilon of its norms."""
    vocabulary: int
    context: int
    """Tokens of a row."""
    embed_dim: int
    """Width of the space of its projection."""
    pooled: Literal["first", "largest", "last"]
    """Token that is the text's vector: the first of number ``end``, the first of the largest number, or the last of the row."""
    end: int
    """Number of the token at the end of a text, where ``pooled`` is first; -1 elsewhere."""

    @property
    def is_causal(self) -> bool:
        """True if tokens see those before them alone, as CLIP's; SigLIP's see all of the row, what fills it up included."""
        return self.family == "clip"


@functools.lru_cache(maxsize=8)
def read_text_folder(weights: str) -> TextFolder:
    """Return what a folder of transformers, or a name in the user's cache, says of its text tower.

    Raises:
        ConfigError: in one line, if there is none, it brings code, it is of another family, or a size is none.
    """
    folder = text_folder_of(weights)
    try:
        whole = read_config(folder)
    except ConfigError as error:
        raise ConfigError(f"language.text.weights {error}") from None
    place = f"language.text.weights {one_line(folder)}/config.json"
    inner = whole.get("text_config")
    if isinstance(whole.get("vision_config"), dict) and inner is None:
        inner = {}
    stated: Mapping[str, Any] = whole if inner is None else inner
    if not isinstance(stated, Mapping):
        raise ConfigError(f"{place}: text_config is no object")
    kind = str(whole.get("model_type"))
    family = kind.removesuffix("_text_model")
    if family not in DEFAULTS:
        raise ConfigError(
            f"{place}: is of a '{one_line(kind, 40)}'; text towers are taken of {', '.join(DEFAULTS)}, as transformers saves them"
        )
    values = {**DEFAULTS[family], **{key: value for key, value in stated.items() if value is not None}}
    sizes = {key: _whole(values, key, place) for key, value in DEFAULTS[family].items() if isinstance(value, int)}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ConfigError(f"{place}: hidden_size {sizes['hidden_size']} is not divisible by its heads")
    activation, eps = values["hidden_act"], values["layer_norm_eps"]
    if activation not in ACTIVATIONS:
        raise ConfigError(f"{place}: hidden_act '{one_line(activation, 40)}' is not known; known are {', '.join(ACTIVATIONS)}")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise ConfigError(f"{place}: layer_norm_eps is {one_line(eps, 40)}, not a small number above 0")
    end = sizes.get("eos_token_id", -1)
    pooled: Literal["first", "largest", "last"] = "last" if family != "clip" else "largest" if end == LEGACY_END else "first"
    return TextFolder(
        family,
        sizes["hidden_size"],
        sizes["num_hidden_layers"],
        sizes["num_attention_heads"],
        sizes["intermediate_size"],
        ACTIVATIONS[activation],
        float(eps),
        sizes["vocab_size"],
        sizes["max_position_embeddings"],
        _projection(family, whole, values, sizes["hidden_size"], place),
        pooled,
        end if pooled == "first" else -1,
    )


def text_folder_of(weights: str) -> Path:
    """Return the folder that ``language.text.weights`` names: a path, or a name in the user's Hugging Face cache.

    Raises:
        ConfigError: in one line, if there is none.
    """
    try:
        return find_folder(weights)
    except ConfigError as error:
        raise ConfigError(f"language.text.weights: {str(error).removeprefix('hf:')}") from None


def _projection(family: str, whole: Mapping[str, Any], values: Mapping[str, Any], width: int, place: str) -> int:
    """Return the width of the space of texts: a CLIP says it for both towers, a SigLIP for its texts."""
    if family != "clip":
        return _whole({"projection_size": width, **values}, "projection_size", place)
    stated = {"projection_dim": 512, **values}
    return _whole(whole if whole.get("projection_dim") is not None else stated, "projection_dim", place)


def _whole(values: Mapping[str, Any], key: str, place: str) -> int:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**24:
        raise ConfigError(f"{place}: {key}: it takes a whole number from 1, got {one_line(value, 40)}")
    return value
