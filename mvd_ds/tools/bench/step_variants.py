"""Variants of the training step for ``bench step``: the recipe of one step, its random clips, and the ways to compute it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from mvd_ds.config import LANGUAGE, ClipView, ConfigError, TextSettings, TrainingRecipe, load_recipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.masking_batch import mask_arrays
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.models.acceleration.fp8 import fp8_obstacle
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor, recipe_flops
from mvd_ds.tools.bench.product_step import EngineStep, ProductStep
from mvd_ds.tools.bench.reference_step import STYLES, ReferenceStep, inputs_of, reference_optimizer, wrap_ddp
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import DTYPES

_BATCHES = 4
"""Number of batches that take turns, so that no cache serves a single one."""
_CPU_ENCODER = ["size=base", "embed_dim=768", "num_heads=12", "depth=6", "patch_px=16", "input_px=null"]
_CPU_GEOMETRY = [
    *(f"model.{item}" for item in _CPU_ENCODER[:-1]),
    *("decoder.embed_dim=768", "decoder.num_heads=12", "decoder.depth=1"),
    *("data.clip.frames=16", "data.clip.size_px=224", "model.tubelet_frames=2", "batch.micro=1", "batch.global=1"),
    "engine.precision=fp32",
]
"""Settings of base widths and 1568 tokens, but few blocks: the proportions of a step in seconds and not in minutes."""


SELF = "ours, self-attention decoders"
"""Name of the variant whose decoders are those of ``decoder.attention: self``, where the recipe's are others."""
FP8 = "ours, FP8 teachers"
"""Name of the variant whose targets differ by as much as FP8 rounds; the gate leaves it out."""


class Variant(NamedTuple):
    """One way to compute a step."""

    step: Any
    """ProductStep, EngineStep or ReferenceStep."""
    batches: list[Any]
    """Batches in the form that the step takes."""
    masks: int
    """Number of masks K, student samples for each clip."""
    recipe: TrainingRecipe | None = None
    """The recipe of the step, where it is not the measured one."""


def step_recipe(name: str, overrides: list[str], geometry: str, device: torch.device, world: int = 1) -> TrainingRecipe:
    """Return the recipe of the measured step: one micro batch on each of ``world`` devices, random weights, nothing dropped.

    Raises:
        ConfigError: for a faulty setting, or cached targets, which have no measured step.
    """
    wanted = (["engine.precision=fp32"] if device.type == "cpu" else []) + overrides
    teachers = [key for key, teacher in recipe_of_step(name, wanted).teachers.items() if not teacher.is_ema]
    fixed = _CPU_GEOMETRY + [f"teachers.{key}.{item}" for key in teachers for item in _CPU_ENCODER]
    wanted = (fixed if geometry == "cpu" else []) + wanted
    micro = recipe_of_step(name, wanted).batch.micro
    forced = [f"teachers.{key}.{item}" for key in teachers for item in ("weights=random", "fp8=false")]
    forced += ["model.drop_path=0", "decoder.drop_path=0", f"batch.global={micro * world}"]
    students = recipe_of_step(name, wanted).students
    forced += [f"students.{key}.{item}=0" for key in students for item in ("model.drop_path", "decoder.drop_path")]
    recipe = recipe_of_step(name, wanted + forced)
    if recipe.targets.cache is not None:
        raise ConfigError("targets.cache: a step that reads its targets is not measured; add targets.cache=null to ask teachers")
    return recipe


def require_yardsticks(recipe: TrainingRecipe) -> None:
    """Refuse a recipe of which the yardsticks cannot compute a part.

    Raises:
        ConfigError: naming that part.
    """
    if recipe.optimizer.ema_decay is not None:
        raise ConfigError(
            "optimizer.ema_decay: the yardsticks keep no average of their weights; measure ours with --against none"
        )
    if recipe.language is not None:
        raise ConfigError("language: there is no yardstick for captions; measure ours by itself with --against none")
    for key, teacher in recipe.teachers.items():
        if teacher.network is not None:
            raise ConfigError(f"teachers.{key}.network {teacher.network}: there is no yardstick for networks of timm; remove it")
    for key, output in recipe.outputs.items():
        target, tokens = output.target, output.head(1).tokens
        known = target is not None and tokens == "masked" and target.kind in ("features", "relations")
        if not known or (target is not None and len(target.blocks) > 1 and target.mode != "mean"):
            raise ConfigError(
                f"{key}: there is no yardstick for it, only for features and relations of masked tokens; remove it, or measure "
                "ours by itself with --against none"
            )
        if target is not None and target.standardise == "clip":
            raise ConfigError(f"{key}: the yardsticks do not standardise per clip; choose another, or --against none")
    if recipe.balance != "fixed" or recipe.drop_teachers:
        raise ConfigError("the yardsticks add losses by fixed weights: choose balance=fixed drop_teachers=0, or --against none")
    if recipe.masking.decoder != "all":
        raise ConfigError(f"masking.decoder {recipe.masking.decoder}: the yardsticks predict all tokens; choose all")
    if recipe.model.cls_token:
        raise ConfigError("model.cls_token true: the yardsticks have no class token in the student; choose false")
    for where, network in {"model": recipe.model, **{f"teachers.{key}": one for key, one in recipe.teachers.items()}}.items():
        if BlockStyle.of(network) != BlockStyle() or network.registers:
            raise ConfigError(
                f"{where}: the yardsticks have blocks as published for MVD alone: no registers, rotary positions, ..."
            )


def recipe_of_step(name: str, overrides: list[str]) -> TrainingRecipe:
    """Return a recipe of ``distill``, or of ``pretrain`` where its objective is captions alone."""
    recipe = load_recipe(name, overrides)
    if getattr(recipe, "objective", None) != LANGUAGE:
        recipe = load_recipe(name, overrides, "distill")
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def has_fp8(recipe: TrainingRecipe, device: torch.device) -> bool:
    """Return whether all teachers can compute in FP8 on ``device``."""
    widths = [[teacher.embed_dim, int(teacher.embed_dim * teacher.mlp_ratio)] for teacher in recipe.teachers.values()]
    return not any(fp8_obstacle(device, DTYPES[recipe.engine.precision], own) for own in widths)


def build_variants(
    recipe: TrainingRecipe, cluster: Cluster, against: tuple[str, ...] = tuple(STYLES)
) -> tuple[dict[str, Variant], Variant]:
    """Return the variants ``against`` and the product's by name, and P2 on the clips of all masks, which only the gate runs.

    One process has all of them in plain torch. Several have the product under DeepSpeed's engine, as a training does, and the
    yardsticks under torch's DistributedDataParallel; each has clips of its own.
    """
    device = cluster.device
    student = build_predictor(recipe)
    teachers = {key: build_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
    if cluster.world > 1:
        ours: Any = EngineStep(recipe, cluster)
    else:
        # fp32 teachers never change, and serve all variants; others are rounded for the product.
        own = teachers if recipe.engine.precision == "fp32" else copy.deepcopy(teachers)
        ours = ProductStep(recipe, copy.deepcopy(student), own, device)
    student = student.to(device)
    teachers = {key: teacher.to(device) for key, teacher in teachers.items()}
    batches = rank_batches(recipe, cluster.rank)
    # Masks by a teacher's attention or by motion are part of the product's step; the yardsticks get them drawn.
    drawn = [ours.drawn(batch) for batch in batches]
    fp8 = None
    if cluster.world == 1 and has_fp8(recipe, device):
        fp8 = ProductStep(recipe, copy.deepcopy(student), copy.deepcopy(teachers), device, batches[0].views)
    optimizer, lent = reference_optimizer(student, recipe), wrap_ddp(student, cluster.world)
    steps = {key: ReferenceStep(style, recipe, student, teachers, optimizer, device, lent) for key, style in STYLES.items()}

    single = [_with_masks(batch, 1) for batch in batches]
    size, masks = recipe.data.clip.size_px, recipe.masks_per_clip
    usual = [pinned(inputs_of(_with_masks(batch, 1), size), device) for batch in drawn]
    variants = {key: Variant(steps[key], usual, 1) for key in against}
    variants["ours"] = Variant(ours, [pinned(batch, device) for batch in single], 1)
    if masks > 1:
        variants[f"ours, {masks} masks"] = Variant(ours, [pinned(batch, device) for batch in batches], masks)
    if fp8 is not None:
        variants[FP8] = Variant(fp8, variants["ours"].batches, 1)
    if cluster.world == 1 and (other := with_self_attention(recipe)) is not None:
        step = ProductStep(other, build_predictor(other), copy.deepcopy(teachers), device)
        variants[SELF] = Variant(step, variants["ours"].batches, 1, other)
    return variants, Variant(steps["P2"], [inputs_of(drawn[0], size)], masks)


def with_self_attention(recipe: TrainingRecipe) -> TrainingRecipe | None:
    """Return the recipe with decoders of self-attention, which are else the same; None if it has no others."""
    if all(output.decoder.attention == "self" for output in recipe.outputs.values()):
        return None
    changed = {"attention": "self", "levels": "last"}
    decoders = {name: teacher.decoder and teacher.decoder.model_copy(update=changed) for name, teacher in recipe.teachers.items()}
    teachers = {name: recipe.teachers[name].model_copy(update={"decoder": own}) for name, own in decoders.items()}
    return recipe.model_copy(update={"decoder": recipe.decoder.model_copy(update=changed), "teachers": teachers})


def rank_batches(recipe: TrainingRecipe, rank: int) -> list[ClipBatch]:
    """Return the batches of one process, different from those of any other, in the form of a loader's."""
    return [random_batch(recipe, rank * _BATCHES + number) for number in range(_BATCHES)]


def random_batch(recipe: TrainingRecipe, number: int) -> ClipBatch:
    """Return random clips under random masks."""
    generator = keyed_generator(recipe.run.seed, "bench", number)
    clips, clip = recipe.batch.micro, recipe.data.clip
    pixels = generator.integers(0, 256, (clips, 3, clip.frames, clip.size_px, clip.size_px), "uint8")
    views: dict[ClipView, torch.Tensor] = {clip.size_px: torch.from_numpy(pixels)}
    for view in recipe.clip_views[1:]:
        seen = clip.seen_as(view)
        shape = (seen.frames, seen.size_px, seen.size_px)
        views[view] = F.interpolate(views[clip.size_px].float(), shape).to(torch.uint8)
    arrays = [mask_arrays(recipe.masking, recipe.grid, recipe.predicted_tokens, generator, generator) for _ in range(clips)]
    drawn = {name: torch.from_numpy(np.stack([own[name] for own in arrays])) for name in arrays[0]}
    undrawn = torch.zeros(clips, recipe.masks_per_clip, 0, dtype=torch.int64)
    masks: dict[str, Any] = {"visible": undrawn, "masked": undrawn} | drawn
    classes = recipe.labels.classes if recipe.labels else 1
    labels = torch.from_numpy(generator.integers(0, classes, (clips, 1 if recipe.labels else 0)))
    drop_path = torch.zeros(clips, recipe.masks_per_clip, recipe.drop_path_blocks)
    places = torch.arange(clips)
    flip = torch.zeros(clips, dtype=torch.bool)
    if recipe.language is not None:
        masks = {**masks, "captions": torch.from_numpy(_random_captions(recipe.language.text, clips, generator))}
    if recipe.drop_teachers:
        uniforms = generator.random((clips, recipe.masks_per_clip, len(recipe.teachers)), "float32")
        masks = {**masks, "teacher_uniforms": torch.from_numpy(uniforms)}
    return ClipBatch(views, flip, drop_path=drop_path, labels=labels, sample=places, place=places, faults=[], **masks)


def _random_captions(text: TextSettings, clips: int, generator: np.random.Generator) -> np.ndarray:
    """Return random tokens, int64 (clips, L), with one end of a text in each row, at its end."""
    folder = text.folder
    end = text.vocabulary - 2 if folder is None or folder.pooled != "first" else folder.end
    rows = generator.integers(0, text.vocabulary, (clips, text.length))
    rows[rows == end] = 0
    rows[:, -1] = end
    return rows


def _with_masks(batch: ClipBatch, masks: int) -> ClipBatch:
    """Return the batch with the first ``masks`` masks of every clip."""
    names = ("visible", "masked", "drop_path", "mask_numbers", "mask_order")
    parts = {name: getattr(batch, name) for name in names}
    return batch._replace(**{name: part[:, :masks] for name, part in parts.items() if part is not None})


def pinned(batch: Any, device: torch.device) -> Any:
    """Return ``batch``, a NamedTuple of tensors and dicts of them, in pinned memory if ``device`` is a GPU."""
    if device.type != "cuda":
        return batch

    def pin(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pin(inner) for key, inner in value.items()}
        return value.pin_memory() if isinstance(value, torch.Tensor) else value

    return type(batch)(*(pin(value) for value in batch))


def with_mask_count(recipe: TrainingRecipe, masks: int) -> TrainingRecipe:
    """Return ``recipe`` with this many masks per clip."""
    return recipe.model_copy(update={"masking": recipe.masking.model_copy(update={"masks_per_clip": masks})})


def geometry_of(recipe: TrainingRecipe) -> dict[str, Any]:
    """Return the sizes of the step by setting; networks as width x depth."""
    encoders = {"student": recipe.model, **recipe.teachers}
    tokens = recipe.grid[0] * recipe.grid[1] * recipe.grid[2]
    return {
        "clips": recipe.batch.micro,
        "masks_per_clip": recipe.masks_per_clip,
        "tokens": tokens,
        "visible": tokens - recipe.masked_tokens,
        **{key: f"{encoder.embed_dim} x {encoder.depth}" for key, encoder in encoders.items()},
        "decoders": f"{recipe.decoder.sizes(recipe.model).width} x {recipe.decoder.depth}",
        "activation_checkpointing": recipe.model.activation_checkpointing,
    }


def gflops_of(recipe: TrainingRecipe) -> dict[str, float]:
    """Return the GFLOPs of a step for one clip with all its masks, model arithmetic only."""
    flops = recipe_flops(recipe)
    parts = {f"teacher {key}": value for key, value in flops.teachers.items()}
    parts |= {"texts": 3 * flops.language + flops.frozen_text} if recipe.language is not None else {}
    parts |= {"encoder": 3 * flops.encoder, "decoders": 3 * sum(flops.decoders.values()), "step": flops.training}
    return {key: value / 1e9 for key, value in parts.items()}
