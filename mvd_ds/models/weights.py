"""Model folders: ``model.safetensors`` and ``config.json``, written whole or not at all, read strictly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mvd_ds.config import ConfigError, EncoderSettings, TrainingRecipe, dump, validate
from mvd_ds.models.initialisation import build_without_weights
from mvd_ds.models.masked import MaskedPredictor, output_widths
from mvd_ds.models.vit import VisionTransformer

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
FORMAT, VERSION = "mvd_ds", 1

#: What makes two encoders the same network. Clip sizes are not among it: position tables are rebuilt for any grid.
ARCHITECTURE = (
    "kind",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "patch_px",
    "tubelet_frames",
    "position",
    "qkv_bias",
    "cls_token",
)
NAMES_SHOWN = 6


def save_model(folder: str | Path, state_dict: Mapping[str, Tensor], recipe: TrainingRecipe, extra: dict[str, Any]) -> None:
    """Write a model folder aside, then put it in place of what was there.

    Args:
        folder: the model folder.
        state_dict: of a ``MaskedPredictor``.
        recipe: the resolved tree that it was trained by.
        extra: JSON values kept beside the recipe, the step for example.

    Raises:
        ConfigError: if the folder cannot be written; nothing half-written is left.
    """
    folder = Path(folder)
    config = {"format": FORMAT, "version": VERSION, "recipe": dump(recipe), **extra}
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state_dict.items()}
    aside, replaced = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "replaced"))
    try:
        for leftover in (aside, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        # The description travels inside the file too, so that the file alone can be checked.
        save_file(tensors, aside / WEIGHTS_NAME, metadata={"config": json.dumps(config)})
        (aside / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for path in (aside / WEIGHTS_NAME, aside / CONFIG_NAME):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(replaced)
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise ConfigError(f"{folder}: the model cannot be written: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def load_predictor(folder: str | Path) -> tuple[MaskedPredictor, TrainingRecipe]:
    """The model of a folder written by ``save_model``, and its recipe; fp32, on the CPU.

    Raises:
        ConfigError: if the folder is not such a folder, or its weights do not fit its recipe.
    """
    recipe = read_recipe(folder)
    model = build_without_weights(lambda: MaskedPredictor(recipe.model, recipe.grid, recipe.decoder, output_widths(recipe)))
    load_strictly(model, _read_tensors(_weights_file(folder, "model"), prefix=""), str(folder))
    return model, recipe


def load_encoder(encoder: VisionTransformer, settings: EncoderSettings, weights: str | Path, origin: str) -> None:
    """Fill ``encoder`` with the ``encoder.*`` weights of a model folder or of the ``model.safetensors`` in it.

    Args:
        encoder: network to fill.
        settings: the architecture that the recipe states for it.
        weights: folder or file.
        origin: names the setting in messages.

    Raises:
        ConfigError: if weights are missing or misfit, or stem from another architecture; every disagreement is named.
    """
    file = _weights_file(weights, origin)
    stored = read_recipe(weights).model
    wrong = [
        f"{key} is {getattr(stored, key)} there and {getattr(settings, key)} in the recipe"
        for key in ARCHITECTURE
        if getattr(stored, key) != getattr(settings, key)
    ]
    if wrong:
        raise ConfigError(f"{origin} {weights}: another architecture: {'; '.join(wrong)}")
    load_strictly(encoder, _read_tensors(file, prefix="encoder."), f"{origin} {weights}")


def load_strictly(module: nn.Module, state_dict: Mapping[str, Tensor], origin: str) -> None:
    """Copy ``state_dict`` into ``module``, all of it or nothing.

    Raises:
        ConfigError: if a name is missing, unexpected, of another shape, or holds a number that is not finite.
    """
    own = module.state_dict()
    common = [name for name in own if name in state_dict]
    faults = {
        "missing": [name for name in own if name not in state_dict],
        "unexpected": [name for name in state_dict if name not in own],
        "of another shape": [
            f"{name} {tuple(state_dict[name].shape)} instead of {tuple(own[name].shape)}"
            for name in common
            if state_dict[name].shape != own[name].shape
        ],
        "not finite": [name for name in common if not torch.isfinite(state_dict[name]).all()],
    }
    found = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in faults.items() if names]
    if found:
        raise ConfigError(f"{origin}: weights do not fit {type(module).__name__}: {'; '.join(found)}")
    module.load_state_dict(dict(state_dict), strict=True)


def read_recipe(weights: str | Path) -> TrainingRecipe:
    """The recipe in the ``config.json`` of a model folder, or in the header of a weights file.

    Raises:
        ConfigError: if there is none, or it is not a training recipe of this format.
    """
    path = Path(weights)
    if path.is_file():
        origin, text = str(path), _read_header(path)
    else:
        origin = str(path / CONFIG_NAME)
        try:
            text = (path / CONFIG_NAME).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{origin}: cannot be read: {error}; give a folder written by `pretrain`") from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{origin}:{error.lineno}: is not JSON: {error.msg}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != VERSION:
        raise ConfigError(f"{origin}: is not the description of a model in format {FORMAT}, version {VERSION}")
    recipe = validate(config.get("recipe") or {}, origin)
    if not isinstance(recipe, TrainingRecipe):
        raise ConfigError(f"{origin}: objective {recipe.objective} trains no model")
    return recipe


def _weights_file(weights: str | Path, origin: str) -> Path:
    path = Path(weights)
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{origin} {weights}: there is no file {file}; give a folder written by `pretrain`")
    return file


def _read_tensors(file: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors whose names start with ``prefix``, without it."""
    try:
        with safe_open(file, framework="pt") as stored:
            return {name.removeprefix(prefix): stored.get_tensor(name) for name in stored.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file}: is not a readable safetensors file: {error}") from None


def _read_header(file: Path) -> str:
    try:
        with safe_open(file, framework="pt") as stored:
            text = (stored.metadata() or {}).get("config")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file}: is not a readable safetensors file: {error}") from None
    if text is None:
        raise ConfigError(f"{file}: its header does not describe the model; give a folder written by `pretrain`")
    return text


def _shorten(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
