"""Small recipes and inputs for the models room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe, validate

IMAGE_TEACHER = {
    "kind": "image",
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 2,
    "patch_px": 8,
    "tubelet_frames": 1,
    "position": "sincos2d",
    "qkv_bias": "full",
    "cls_token": True,
    "weights": "random",
}
VIDEO_TEACHER = {
    "embed_dim": 40,
    "depth": 2,
    "num_heads": 2,
    "patch_px": 8,
    "position": "sinusoid1d",
    "weights": "random",
}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with nested ``changes``."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


@pytest.fixture
def recipe() -> Callable[..., TrainingRecipe]:
    """Builds a small distillation recipe on grid (2, 4, 4) with two random teachers; keywords change it."""

    def build(**changes: Any) -> TrainingRecipe:
        values = {
            "objective": "distillation",
            "data": {"clip": {"frames": 4, "size_px": 32}},
            "masking": {"ratio": 0.75, "masks_per_clip": 2},
            "model": {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_px": 8},
            "decoder": {"embed_dim": 48, "depth": 2, "num_heads": 3},
            "teachers": {"image": IMAGE_TEACHER, "video": VIDEO_TEACHER},
            "schedule": {"steps": 2},
        }
        built = validate(merge(values, changes), "test")
        assert isinstance(built, TrainingRecipe)
        return built

    return build


def stage_one(kind: str, model: dict[str, Any], **changes: Any) -> TrainingRecipe:
    """A recipe that trains the encoder of a teacher."""
    values = {
        "objective": f"{kind}_reconstruction",
        "masking": {"kind": "random", "ratio": 0.75},
        "model": {key: value for key, value in model.items() if key != "weights"},
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "pixels": {},
        "schedule": {"steps": 2},
    }
    built = validate(merge(values, changes), "test")
    assert isinstance(built, TrainingRecipe)
    return built


@pytest.fixture
def image_recipe() -> TrainingRecipe:
    """Stage one of the small image teacher (with a class token), on grid (1, 4, 4)."""
    return stage_one("image", IMAGE_TEACHER, data={"clip": {"frames": 1, "size_px": 32}})


@pytest.fixture
def video_recipe() -> TrainingRecipe:
    """Stage one of the small video teacher, on grid (2, 4, 4)."""
    return stage_one("video", VIDEO_TEACHER, data={"clip": {"frames": 4, "size_px": 32}}, run={"seed": 5})


@pytest.fixture
def masks() -> Callable[..., tuple[Tensor, Tensor]]:
    """Draws (visible (B, K, V), masked (B, K, M)) ascending indices."""

    def draw(batch: int, masks_per_clip: int, tokens: int, visible: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        order = torch.rand(batch, masks_per_clip, tokens, generator=torch.Generator().manual_seed(seed)).argsort(dim=-1)
        return order[..., :visible].sort().values, order[..., visible:].sort().values

    return draw


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Relative L2 distance of a value from its reference."""
    return lambda value, reference: ((value - reference).norm() / reference.norm()).item()


@pytest.fixture
def image_teacher() -> dict[str, Any]:
    """Settings of the small image teacher."""
    return IMAGE_TEACHER


@pytest.fixture
def video_teacher() -> dict[str, Any]:
    """Settings of the small video teacher."""
    return VIDEO_TEACHER
