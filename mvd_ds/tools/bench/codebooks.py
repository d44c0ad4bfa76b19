"""Codebooks that stand in for those of a recipe in ``bench step``, whose teachers have random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mvd_ds.config import TargetSettings, TrainingRecipe, dump, validate
from mvd_ds.config.tokenizers.card import find_card
from mvd_ds.config.tokenizers.recipe import READ, TokenizerRecipe, read_width
from mvd_ds.config.tokenizers.settings import TokenizerSettings
from mvd_ds.models.tokenizers.folder import save_tokenizer, tensor_shapes
from mvd_ds.runs.tokenizers.learn import plan_tokenizer

#: Sections of a student's recipe that its tokenizer has, too: the very frames, grid and seed.
_SHARED = ("data", "run", "batch", "schedule", "engine")


def with_random_codebooks(recipe: TrainingRecipe, folder: Path) -> TrainingRecipe:
    """Return a recipe of which every codebook is a random one for its random teacher, as large as the recipe's own.

    A tokenizer that is there says what it is made of; of one that is not, ``target.codes`` are those of BEiT v2, 32 channels
    wide, of tokens by themselves.

    Args:
        recipe: the recipe of a measured step.
        folder: an empty folder, where the tokenizers are written.

    Raises:
        ConfigError: if a tokenizer is damaged, or neither it nor the number of its codes is there.
    """
    values = dump(recipe)
    for name, teacher in recipe.teachers.items():
        for suffix, target in teacher.targets.items():
            if target.codebook is None:
                continue
            learned = _tokenizer_recipe(values, recipe, name, target)
            where = folder / (name + suffix)
            weights = plan_tokenizer(learned).build().state_dict()
            others = {key: shape for key, shape in tensor_shapes(learned).items() if key not in weights}
            save_tokenizer(where, weights, {key: torch.randn(shape) for key, shape in others.items()}, learned, None, 0)
            own = values["teachers"][name]
            (own["more_targets"][suffix[1:]] if suffix else own["target"])["codebook"] = str(where)
    made = validate(values, "bench step")
    assert isinstance(made, TrainingRecipe)
    return made


def _tokenizer_recipe(values: dict[str, Any], recipe: TrainingRecipe, name: str, target: TargetSettings) -> TokenizerRecipe:
    """Return the recipe of a tokenizer of what ``target`` reads of teacher ``name``."""
    card = find_card(target, f"teachers.{name}: codebook")
    grid = {key: getattr(recipe.model, key) for key in ("patch_px", "tubelet_frames")}
    if card is not None and not card.recipe.sees_pixels:
        model = dump(card.recipe.model) | grid
        tokenizer = dump(card.recipe.tokenizer) | {"reconstruct": "features", "perceptual": None}
    else:
        # Behind an encoder of pixels, too, tokens have their codes by themselves.
        codes = target.codes if card is None else card.codes
        assert codes is not None
        width = read_width(recipe.teachers[name], target)
        code_width = TokenizerSettings().width if card is None else card.recipe.code_width
        model = {"embed_dim": width, "depth": 0, "num_heads": 1, **grid}
        tokenizer = dump(TokenizerSettings(codes=codes, width=code_width))
    teacher = values["teachers"][name] | {"target": {key: getattr(target, key) for key in READ}, "more_targets": {}}
    for key in ("decoder", "loss", "weight"):
        teacher.pop(key, None)
    shared = {key: values[key] for key in _SHARED}
    made = {
        "objective": "tokenizer",
        "model": model,
        "decoder": {"depth": 0},
        "teachers": {name: teacher},
        "tokenizer": tokenizer,
    }
    read = validate(shared | made, f"the tokenizer of teachers.{name}")
    assert isinstance(read, TokenizerRecipe)
    return read
