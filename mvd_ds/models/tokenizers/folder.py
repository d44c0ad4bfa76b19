"""Tokenizers on disk: ``model.safetensors`` and ``config.json``, written whole or not at all, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.config.tokenizers.card import TokenizerCard, card_values, read_card
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.formats.containers import WEIGHTS_NAME, read_safetensors
from mvd_ds.models.tokenizers.network import Tokenizer
from mvd_ds.models.weights import write_folder

VECTORS, SHARE, MEAN, DEVIATION = "codebook.vectors", "codebook.share", "standardise.mean", "standardise.deviation"


def save_tokenizer(
    folder: Path,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    recipe: TokenizerRecipe,
    teacher_digest: str | None,
    step: int,
) -> None:
    """Write a tokenizer aside, then put it in place of what was there.

    Args:
        weights: state dict of a ``Tokenizer``.
        statistics: state of its codebook and its standardiser, by dotted name.
        recipe: the recipe that it was learned by.
        teacher_digest: digest of the weights of its teacher; None for random ones.
        step: steps that it was trained for.

    Raises:
        ConfigError: if the folder cannot be written; nothing half-written is left.
    """
    config = card_values(recipe, teacher_digest, step)
    kept = {name: value.float() for name, value in statistics.items() if name in (VECTORS, SHARE, MEAN, DEVIATION)}
    write_folder(folder, {**weights, **kept}, config, {"config": json.dumps(config)})


def read_tokenizer(folder: str | Path) -> tuple[TokenizerCard, dict[str, Tensor]]:
    """Return the card of a tokenizer, and its tensors: those of a ``Tokenizer``, its vectors, its scale.

    Raises:
        ConfigError: if there is no tokenizer, or its tensors are not those that its recipe asks for; each is named.
    """
    card = read_card(folder)
    path = Path(folder) / WEIGHTS_NAME
    tensors, _ = read_safetensors(path)
    wanted, found = tensor_shapes(card.recipe), {name: value.shape for name, value in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        there, asked = (tuple(shapes[name]) if name in shapes else "none" for shapes in (found, wanted))
        if there != asked:
            raise ConfigError(f"{path}: {name} is {there} there, and its recipe asks for {asked}")
        if not torch.isfinite(tensors[name]).all():
            raise ConfigError(f"{path}: {name} has values that are not finite")
    return card, tensors


def tensor_shapes(recipe: TokenizerRecipe) -> dict[str, torch.Size]:
    """Return the shapes of all tensors of a tokenizer's folder by name."""
    with torch.device("meta"):
        found = {name: value.shape for name, value in Tokenizer(recipe).state_dict().items()}
    codes, width = recipe.tokenizer.codes, recipe.feature_width
    found |= {VECTORS: torch.Size((codes, recipe.code_width)), SHARE: torch.Size((codes,))}
    if recipe.standardises:
        found |= {name: torch.Size((width,)) for name in (MEAN, DEVIATION)}
    return found
