"""The recipe of the correctness checks: the quickstart's networks, wide enough for every kernel, with random weights."""

from __future__ import annotations

from mvd_ds.config import TrainingRecipe, load_recipe

NETWORK = ("size=null", "embed_dim=128", "depth=2", "num_heads=2")
"""Head width 64, as in all published sizes, so that fused kernels and FP8 can run."""


def small_recipe(precision: str, compiled: str, *more: str) -> TrainingRecipe:
    """Return a distillation of two teachers that takes a second a step on a CPU.

    Args:
        precision: ``fp32`` or ``bf16``.
        compiled: value of ``engine.compile``.
        more: overrides that come last.
    """
    networks = [f"{part}.{item}" for part in ("model", "teachers.image", "teachers.video") for item in NETWORK]
    recipe = load_recipe(
        "quickstart_distill",
        [
            *networks,
            *("decoder.embed_dim=128", "decoder.num_heads=2", "teachers.image.weights=random", "teachers.video.weights=random"),
            *("teachers.image.placement=replicated", "teachers.video.placement=replicated", "model.drop_path=0"),
            *("batch.micro=4", "batch.global=4", f"engine.precision={precision}", f"engine.compile={compiled}"),
            *more,
        ],
        "distill",
    )
    assert isinstance(recipe, TrainingRecipe)
    return recipe
