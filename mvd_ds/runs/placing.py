"""This module places frozen teachers as the recipe says: replicated or sharded, compiled, replayed, or in FP8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ClipView, ConfigError, EngineSettings, TeacherSettings, TrainingRecipe
from mvd_ds.models.acceleration.compiled import compile_blocks, wants_compiling
from mvd_ds.models.acceleration.compiled_libraries import compile_stacks
from mvd_ds.models.acceleration.fp8 import LEAST_SIMILARITY, fp8_obstacle, similarity, use_fp8
from mvd_ds.models.acceleration.graphed import GraphedForward
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.teachers import Given, Teacher
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.engine.deepspeed_engine import DTYPES
from mvd_ds.training.engine.deepspeed_start import start_teacher
from mvd_ds.training.step import normalise, to_unit


def place_teachers(
    recipe: TrainingRecipe,
    plans: dict[str, Blueprint[Teacher]],
    cluster: Cluster,
    read_clips: Callable[[], dict[ClipView, Tensor]],
) -> dict[str, Callable[..., Given]]:
    """Return the teachers by name, placed and ready to be called. Collective.

    Args:
        read_clips: some clips of the run, side in px -> uint8 (B, C, T, H, W), on which FP8 is judged.

    Raises:
        ConfigError: on every rank, if a teacher is to compute in FP8 and the device or its features do not allow it.
    """
    placed = {}
    for name, plan in plans.items():
        settings = recipe.teachers[name]
        teacher = start_teacher(plan, settings.placement, recipe, cluster, name)
        if settings.fp8:
            with cluster.together():
                dtype = DTYPES[recipe.engine.precision]
                refuse_without_fp8(name, settings, cluster.device, dtype)
                clips = read_clips()[recipe.view_of(settings)]
                seen = round_to_fp8(teacher, normalise(to_unit(clips.to(cluster.device)), dtype))
                require_similar(name, seen)
            if cluster.is_main:
                say(f"teacher {name}: FP8 features of the first {len(clips)} clips: cosine {seen:.5f} at the 1st percentile")
        placed[name] = accelerate(teacher, name, settings, recipe.engine, cluster.device)
    return placed


def accelerate(
    teacher: Callable[..., Given], name: str, settings: TeacherSettings, engine: EngineSettings, device: torch.device
) -> Callable[..., Given]:
    """Compile the blocks of a placed teacher and replay its forward pass, if settings and device allow it."""
    if wants_compiling(engine.compile, device):
        network = getattr(teacher, "module", teacher)
        assert isinstance(network, nn.Module)
        compile_blocks(network, f"teacher {name}")
        compile_stacks(network, f"teacher {name}")
    if settings.cuda_graph == "auto" and settings.placement == "replicated" and device.type == "cuda":
        assert isinstance(teacher, nn.Module)
        return GraphedForward(teacher, f"teacher {name}")
    return teacher


def refuse_without_fp8(name: str, settings: TeacherSettings, device: torch.device, dtype: torch.dtype) -> None:
    """Raise if a teacher cannot compute in FP8.

    Raises:
        ConfigError: with the reason.
    """
    obstacle = fp8_obstacle(device, dtype, [settings.embed_dim, int(settings.embed_dim * settings.mlp_ratio)])
    if obstacle:
        raise ConfigError(f"teachers.{name}.fp8 true: {obstacle}; choose fp8: false")


@torch.no_grad()
def round_to_fp8(teacher: Any, clip: Tensor) -> float:
    """Turn a teacher's linear maps into FP8, and return how similar its features of ``clip`` are to those before."""
    before = [_first_output(teacher, part) for part in clip.split(1)]
    use_fp8(teacher)
    return similarity(torch.cat([_first_output(teacher, part) for part in clip.split(1)]), torch.cat(before))


def _first_output(teacher: Any, clip: Tensor) -> Tensor:
    """Return what the first target of a teacher is made of."""
    given = teacher(clip)
    return next(iter(given.values())) if isinstance(given, dict) else given


def require_similar(name: str, seen: float) -> None:
    """Raise if FP8 changes the features of a teacher too much.

    Raises:
        ConfigError: with the number.
    """
    if not seen > LEAST_SIMILARITY:
        raise ConfigError(
            f"teachers.{name}.fp8 true: its features have a cosine of {seen:.5f} with those in bf16 at the 1st percentile of "
            f"tokens, and need more than {LEAST_SIMILARITY}; choose fp8: false"
        )
