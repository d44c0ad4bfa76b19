"""A small tokenizer of a random teacher: its recipe, and the folder that a run writes, with codes of its seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mvd_ds.config import TrainingRecipe, dump, validate
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.tokenizers.folder import DEVIATION, MEAN, SHARE, VECTORS, save_tokenizer
from mvd_ds.runs.tokenizers.learn import plan_tokenizer
from mvd_ds.runs.tokenizers.matching import teacher_digest

GRID = (4, 4, 4)
NETWORK = {"embed_dim": 32, "num_heads": 2, "patch_px": 12, "tubelet_frames": 2}
TEACHER = {**NETWORK, "depth": 2, "position": "sinusoid1d", "weights": "random"}
CLIP = {"frames": 8, "stride_frames": 1, "size_px": 48, "crop": "center"}


def tokenizer_recipe(**changed: Any) -> TokenizerRecipe:
    """A recipe of 16 codes with one block before them and one behind; ``changed`` replaces whole sections."""
    values: dict[str, Any] = {
        "objective": "tokenizer",
        "data": {"manifest": "videos/train.txt", "clip": CLIP, "workers": 0},
        "model": {**NETWORK, "depth": 1},
        "decoder": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "teachers": {"video": TEACHER},
        "tokenizer": {"codes": 16, "width": 4},
        "calibration_clips": 8,
        "batch": {"micro": 4, "global": 8},
        "optimizer": {"base_lr": 3e-2, "min_base_lr": 3e-2},
        "schedule": {"steps": 4, "warmup_steps": 0},
        "engine": {"config": "zero1.json", "precision": "fp32"},
    }
    recipe = validate(values | changed, "test")
    assert isinstance(recipe, TokenizerRecipe)
    return recipe


KMEANS: dict[str, Any] = {
    "model": {**NETWORK, "depth": 0},
    "decoder": {"depth": 0},
    "tokenizer": {"method": "kmeans", "codes": 16},
}
"""Sections of a recipe of k-means."""
IMAGE = {**NETWORK, "depth": 2, "kind": "image", "tubelet_frames": 1, "position": "sincos2d", "weights": "random"}
"""An image teacher on the same grid."""
PIXELS: dict[str, Any] = {
    "model": {**NETWORK, "depth": 2},
    "tokenizer": {"codes": 16, "width": 4, "encode": "pixels", "reconstruct": "pixels", "perceptual": "image"},
    "pixels": {"normalise": "none"},
    "teachers": {"image": IMAGE | {"target": {"blocks": [0, 1], "mode": "concat"}, "loss": "l2", "weight": 0.1}},
}
"""Sections of a recipe of clips, which a perceptual teacher looks at, too."""
UNSEEN: dict[str, Any] = {"tokenizer": {"codes": 16, "width": 4, "encode": "pixels", "reconstruct": "pixels"}}
"""Its codebook without the perceptual teacher."""
FRAMES = PIXELS | {
    "model": {**NETWORK, "depth": 2, "kind": "image", "tubelet_frames": 1, "position": "sincos2d"},
    "data": {"manifest": "videos/train.txt", "clip": CLIP | {"frames": 1}, "workers": 0},
    "calibration_clips": 16,
}
"""The same of single frames."""


def write_tokenizer(folder: Path, recipe: TokenizerRecipe, digest: str | None = None) -> Path:
    """A tokenizer's folder with the weights of its seed and random codes."""
    generator = torch.Generator().manual_seed(1)
    statistics = {
        f"{VECTORS}": torch.randn(recipe.tokenizer.codes, recipe.code_width, generator=generator),
        f"{SHARE}": torch.full((recipe.tokenizer.codes,), 1 / recipe.tokenizer.codes),
        f"{MEAN}": torch.randn(recipe.feature_width, generator=generator),
        f"{DEVIATION}": torch.rand(recipe.feature_width, generator=generator) + 0.5,
    }
    if not recipe.standardises:
        del statistics[MEAN], statistics[DEVIATION]
    save_tokenizer(folder, plan_tokenizer(recipe).build().state_dict(), statistics, recipe, digest, 4)
    return folder


def student_recipe(folder: Path, **changed: Any) -> TrainingRecipe:
    """A student of the codes of ``folder``; ``changed`` replaces values of its teacher."""
    own = dump(tokenizer_recipe())
    values = {key: own[key] for key in ("data", "batch", "optimizer", "schedule", "engine")}
    target = {"kind": "codes", "codebook": str(folder)}
    teacher = {**TEACHER, "target": target} | changed
    more = {"model": {**NETWORK, "depth": 2}, "decoder": own["decoder"], "teachers": {"video": teacher}}
    recipe = validate({"objective": "distillation", "masking": {"ratio": 0.5}, **values, **more}, "test")
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def student_of_pixels(folder: Path, recipe: TokenizerRecipe, **changed: Any) -> TrainingRecipe:
    """A student of the codes of a tokenizer of clips, whose encoder is its teacher; ``changed`` replaces values of that."""
    own = {"embed_dim": 32, "num_heads": 2, "depth": 2, "patch_px": 12, "weights": str(folder)}
    own |= {key: getattr(recipe.model, key) for key in ("kind", "tubelet_frames", "position")}
    return student_recipe(folder, **own | {"target": {"kind": "codes", "codebook": str(folder), "norm": "final"}} | changed)


def write_tokenizer_of(student: TrainingRecipe, name: str, folder: Path) -> Path:
    """A tokenizer's folder with random codes, made for teacher ``name`` of a student's recipe; its encoder has a block."""
    own = dump(student)
    shared = {key: own[key] for key in ("data", "batch", "run", "schedule", "engine")}
    teacher = own["teachers"][name] | {"target": {}, "more_targets": {}}
    model = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model |= {key: own["model"][key] for key in ("patch_px", "tubelet_frames")}
    recipe = tokenizer_recipe(**shared, model=model, teachers={name: teacher})
    return write_tokenizer(folder, recipe, teacher_digest(recipe, name))


def teacher_of_pixels(student: TrainingRecipe, folder: Path) -> dict[str, Any]:
    """The encoder of a tokenizer of a student's clips as a teacher of its random codes, which are written to ``folder``."""
    own = dump(student)
    shared = {key: own[key] for key in ("data", "batch", "run", "schedule", "engine")}
    model = {"embed_dim": 32, "depth": 2, "num_heads": 2} | {key: own["model"][key] for key in ("patch_px", "tubelet_frames")}
    write_tokenizer(folder, tokenizer_recipe(**PIXELS | shared | {"model": model, "teachers": {}} | UNSEEN))
    return {
        **model,
        "weights": str(folder),
        "target": {"kind": "codes", "codebook": str(folder), "norm": "final", "weight": 0.25},
    }
