"""Recipes of published methods for other networks or data than the published ones: what is the same."""

from __future__ import annotations

import pytest

from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.models.readouts import READOUTS, readout_of
from mvd_ds.objectives.targets import build_targets
from recipe_pages import header_of


def test_the_student_of_clip_is_umt_but_for_what_its_header_says() -> None:
    """Source: UMT's published script b16_ptk710_f8_res224, on 32 GPUs of 64 clips."""
    recipe = load_recipe("umt_base")
    assert isinstance(recipe, TrainingRecipe)
    clip, teacher = recipe.data.clip, recipe.teachers["clip"]
    assert (clip.frames, clip.sampling, clip.size_px, clip.flip, recipe.model.tubelet_frames) == (8, "uniform", 224, 0.5, 1)
    masking = recipe.masking
    assert (masking.kind, masking.teacher, masking.pick, masking.keep) == ("attention", "clip", "multinomial", "attended")
    assert (masking.ratio, recipe.model.drop_path) == (0.8, 0.1)
    assert (recipe.batch.global_, recipe.batch.accumulation_steps(32)) == (2048, 1)
    assert recipe.learning_rate == pytest.approx((1.5e-4 * 8, 1e-5 * 8), rel=1e-12)
    assert (teacher.target.blocks, teacher.target.mode, teacher.target.tokens) == ((6, 7, 8, 9, 10, 11), "each", "visible")
    assert (teacher.loss, teacher.weight, recipe.decoder.depth) == ("cosine", 2.0, 0)
    assert recipe.schedule.stop_after_epochs == 200 and "no CLIP projection" in header_of("umt_base")["Source"]


def test_the_relations_are_those_of_tinymim() -> None:
    """Block 18 of 24, both relations with weight 1, as many heads as the teacher, a rate of 1.5e-4 for 256 clips."""
    recipe = load_recipe("tinymim_small_from_large")
    assert isinstance(recipe, TrainingRecipe)
    (target,) = build_targets(recipe).values()
    teacher = recipe.teachers["video"]
    assert teacher.size == "large" and teacher.target.blocks == (17,) and teacher.weight == 1.0
    assert teacher.target.relations == ("query_key", "value_value") and target.head.width == 3 * 1024
    assert readout_of(target.head) is READOUTS["tokens"], "a linear map of each visible token"
    assert recipe.learning_rate[0] == pytest.approx(1.5e-4 * 1024 / 256) and recipe.schedule.epochs == 300
    assert (recipe.optimizer.betas, recipe.optimizer.weight_decay, recipe.model.drop_path) == ((0.9, 0.95), 0.05, 0.1)


def test_the_student_of_its_own_average_is_v_jepa_2_but_for_what_its_header_says() -> None:
    """Source: V-JEPA 2's published script pretrain-256px-16f: 3,072 clips at 5.25e-4, blocks of .15 and .7, all the clip long."""
    recipe = load_recipe("vjepa_base")
    assert isinstance(recipe, TrainingRecipe)
    (teacher,) = recipe.teachers.values()
    assert teacher.is_ema and (teacher.target.norm, teacher.target.normalise, teacher.loss) == ("final", True, "l1")
    assert (recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end) == (0.99925, None)
    masking = recipe.masking
    assert (masking.block_scales, masking.block_aspect, masking.block_duration) == ((0.15, 0.7), (0.75, 1.5), 1)
    assert (recipe.decoder.embed_dim, recipe.decoder.depth, recipe.decoder.num_heads) == (384, 12, 12)
    assert recipe.learning_rate == pytest.approx((5.25e-4 / 3, 5.25e-4 / 3)) and recipe.optimizer.weight_decay == 0.04
    assert (recipe.data.clip.frames, recipe.data.clip.stride_seconds, recipe.model.position) == (16, 0.25, "rope3d_vjepa2")
    assert (recipe.data.clip.crop_area, recipe.data.clip.flip) == ((0.3, 1.0), 0.5)
    assert "without the cool-down" in header_of("vjepa_base")["Source"]


def test_the_student_of_prototypes_is_ibot_but_for_what_its_header_says() -> None:
    """Source: iBOT's published settings for ViT-S: 8,192 outputs, warm-up of 30 epochs, one epoch frozen, 10 local crops of
    every image beside its 2 global ones, a rate that counts images and ends at 1e-6."""
    recipe = load_recipe("ibot_small")
    assert isinstance(recipe, TrainingRecipe)
    head, optimizer = recipe.teachers["average"].target.prototypes, recipe.optimizer
    assert (head.outputs, head.layers, head.hidden, head.bottleneck, head.student_temperature) == (8192, 3, 2048, 256, 0.1)
    assert (head.teacher_temperature, head.centring, head.centre_momentum) == ((0.04, 0.07), "ema", 0.9)
    steps = 2 * 240_436 // recipe.batch.global_
    assert (head.frozen_steps, head.warmup_steps) == (steps, 30 * steps) and recipe.data.clips_per_video == 2
    assert (2 * head.local_crops, head.local_px, head.local_area) == (10, 96, (0.05, 0.25))
    assert recipe.data.clip.crop_area[0] == 0.25
    assert (optimizer.ema_decay, optimizer.ema_decay_end, optimizer.gradient_clipping) == (0.996, 1.0, 3.0)
    assert recipe.learning_rate == pytest.approx((5e-4 * 512 / 256, 1e-6)) and recipe.model.cls_token
    assert "behind the encoder" in header_of("ibot_small")["Source"]


@pytest.mark.parametrize("name", ["clip_base", "msclip_base"])
def test_the_students_of_captions_are_clip_and_ms_clip(name: str) -> None:
    """CLIP: 12 blocks of 512 for texts, 5e-4 at 4,096, betas .9 and .98; MS-CLIP: blocks 1 to 11 shared, 32 epochs, decay .2."""
    recipe = load_recipe(name)
    assert isinstance(recipe, TrainingRecipe) and recipe.language is not None
    language, text = recipe.language, recipe.language.text
    assert (language.loss, language.embed_dim, text.causal, recipe.masking.kind) == ("softmax", 512, True, "none")
    assert recipe.learning_rate[0] == pytest.approx(5e-4) and recipe.batch.accumulation_steps(32) == 2
    assert (recipe.optimizer.betas, recipe.optimizer.weight_decay, recipe.schedule.epochs) == ((0.9, 0.98), 0.2, 32)
    if name == "clip_base":
        assert (text.kind, text.embed_dim, text.depth, text.num_heads) == ("own", 512, 12, 8)
    else:
        assert text.kind == "shared" and text.borrowed(recipe.model.depth) == tuple(range(1, 12))
    assert recipe.outputs == {} and recipe.token_counts["visible"] == 1568


def test_the_removal_is_that_of_a_clip() -> None:
    """Two views, crops of 0.5 to 1; 25 of 49 cells of 2 x 2 tokens of a frame stay, by attention of all blocks of the average,
    0.996 to 1; 2 * (2 - 2 cos) to its summary."""
    recipe = load_recipe("aclip_base")
    assert isinstance(recipe, TrainingRecipe) and recipe.language is not None
    masking, teacher = recipe.masking, recipe.teachers["average"]
    assert (masking.kind, masking.keep, masking.pick, masking.cell, masking.blocks) == ("attention", "attended", "high", 2, "all")
    assert recipe.token_counts["visible"] == 8 * 25 * 4 and recipe.language.sees == "visible"
    assert (masking.masks_per_clip, masking.view_area, recipe.data.clip.crop) == (2, (0.5, 1.0), "center")
    assert teacher.is_ema and (recipe.optimizer.ema_decay, recipe.optimizer.ema_decay_end) == (0.996, 1.0)
    target = build_targets(recipe)["average"]
    assert (target.loss, target.weight, target.head.tokens, recipe.decoder.hidden) == ("cosine", 4.0, "summary", 4096)
    assert recipe.learning_rate[0] == pytest.approx(5e-4) and recipe.batch.accumulation_steps(32) == 2
    assert (recipe.optimizer.betas, recipe.optimizer.weight_decay, recipe.schedule.epochs) == ((0.9, 0.98), 0.5, 25)
