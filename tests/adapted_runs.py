"""A small run of ``distill`` with the weights of its seed, as if it were trained: the folder that ``export --adaptors`` takes."""

from __future__ import annotations

from pathlib import Path

import torch

from mvd_ds.config import ClipSettings, TrainingRecipe, load_recipe
from mvd_ds.models.weights import save_model
from mvd_ds.objectives.moving_statistics import statistics_state
from mvd_ds.objectives.targets import Target, build_targets, target_statistics
from mvd_ds.runs.student import build_predictor

CLIP = ClipSettings(frames=4, stride_frames=3, size_px=48)
TOKENS, WIDTH = 32, 40
_STUDENT = ["embed_dim=32", "depth=2", "num_heads=2"]
_TEACHER = [f"embed_dim={WIDTH}", "depth=2", "num_heads=4", "weights=random", "position=learned"]


def adapted_recipe(*overrides: str) -> TrainingRecipe:
    """The recipe of a student of 32 tokens of 12 px and teachers ``image`` and ``video``."""
    clip = [f"data.clip.{key}={getattr(CLIP, key)}" for key in ("frames", "stride_frames", "size_px")]
    networks = {"model": _STUDENT, "teachers.image": _TEACHER, "teachers.video": _TEACHER}
    shapes = [f"{key}.{item}" for key, items in networks.items() for item in [*items, "size=null", "patch_px=12"]]
    recipe = load_recipe("mvd_base_from_base", [*clip, *shapes, "decoder.embed_dim=32", "decoder.num_heads=2", *overrides])
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def adapted_targets(recipe: TrainingRecipe) -> dict[str, Target]:
    """The targets of the recipe, whose statistics are random (matrices are rotations), the same in every call."""
    targets, generator = build_targets(recipe), torch.Generator().manual_seed(0)
    for part in target_statistics(targets).values():
        for buffer in part.state():
            numbers = torch.rand(buffer.shape, generator=generator) + 0.5
            buffer.copy_(torch.linalg.qr(numbers)[0] if buffer.ndim == 2 else numbers)
    return targets


def write_run(folder: Path, *overrides: str) -> Path:
    """The folder of that run."""
    recipe = adapted_recipe(*overrides)
    statistics = statistics_state(target_statistics(adapted_targets(recipe)))
    save_model(folder / "model", build_predictor(recipe).state_dict(), recipe, {}, statistics=statistics)
    return folder
