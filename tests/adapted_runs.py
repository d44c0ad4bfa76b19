"""A small run of ``distill`` with the weights of its seed, as if it were trained: the folder that ``export --adaptors`` takes."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import ClipSettings, TrainingRecipe, load_recipe
from mvd_ds.models.weights import save_model
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


def write_run(folder: Path, *overrides: str) -> Path:
    """The folder of that run."""
    recipe = adapted_recipe(*overrides)
    save_model(folder / "model", build_predictor(recipe).state_dict(), recipe, {})
    return folder
