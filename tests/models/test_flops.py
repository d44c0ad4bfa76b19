"""Counted operations against torch's counter and against the published configurations."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mvd_ds.config import PoolingSettings, validate
from mvd_ds.models import build_teacher
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.flops import classifier_flops
from mvd_ds.runs.student import build_predictor, recipe_flops

IMAGE = {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "qkv_bias": "full", "cls_token": True, "weights": "random"}
VIDEO = {"position": "sinusoid1d", "weights": "random"}
#: GFLOP per clip: encoder, each decoder, all decoders, video teacher, image teacher, forward, training step.
PUBLISHED = [
    ("small", "base", {}, (9.1, 19.5, 39.1, 360.7, 281.0, 690, 786)),
    ("small", "large", {}, (9.1, 19.8, 39.6, 1193.7, 984.9, 2227, 2325)),
    ("base", "base", {}, (31.8, 61.3, 122.7, 360.7, 281.0, 796, 1105)),
    ("base", "large", {}, (31.8, 61.9, 123.8, 1193.7, 984.9, 2334, 2645)),
    ("large", "large", {"embed_dim": 512, "num_heads": 8, "depth": 4}, (104.1, 61.2, 122.5, 1193.7, 984.9, 2405, 2858)),
    ("huge", "huge", {"embed_dim": 640, "num_heads": 8, "depth": 8}, (211.7, 176.2, 352.5, 2382.0, 2036.3, 4982, 6111)),
]


@pytest.mark.parametrize(("student", "teacher", "decoder", "expected"), PUBLISHED)
def test_published_configurations(student, teacher, decoder, expected):
    image = IMAGE | {"size": teacher} | ({"patch_px": 14, "input_px": 196} if teacher == "huge" else {})
    recipe = validate(
        {
            "objective": "distillation",
            "model": {"size": student},
            "decoder": decoder,
            "teachers": {"image": image, "video": VIDEO | {"size": teacher}},
            "schedule": {"steps": 1},
        },
        "test",
    )
    counted = recipe_flops(recipe)
    # The published count embeds all 1568 tubelets; here the 1408 hidden ones are not embedded. It takes all tokens through the
    # MLP of a teacher's last block; here the 160 visible ones, and the 8 class tokens of an image teacher, are left out.
    hidden = 2 * 1408 * 3 * 2 * 16 * 16 * recipe.model.embed_dim
    in_teacher = {name: tokens * 16 * recipe.teachers[name].embed_dim ** 2 for name, tokens in (("video", 160), ("image", 168))}
    in_teachers = sum(in_teacher.values())
    parts = [
        counted.encoder + hidden,
        counted.decoders["image"],
        sum(counted.decoders.values()),
        counted.teachers["video"] + in_teacher["video"],
        counted.teachers["image"] + in_teacher["image"],
        counted.forward + hidden + in_teachers,
        counted.training + 3 * hidden + in_teachers,
    ]
    for value, wanted in zip(parts, expected, strict=True):
        assert value / 1e9 == pytest.approx(wanted, abs=0.55 if wanted >= 600 and wanted == int(wanted) else 0.06)


def count(function, *inputs) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("masks_per_clip", [1, 3])
@pytest.mark.parametrize("cls_token", [False, True])
def test_forward_equals_the_counter_of_torch(recipe, masks, masks_per_clip, cls_token):
    chosen = recipe(
        masking={"masks_per_clip": masks_per_clip, "kind": "random"},
        model={"attention": "eager", "cls_token": cls_token, "mlp_ratio": 3.0},
        teachers={"image": {"attention": "eager", "target": {"blocks": [1, 0]}}, "video": {"attention": "eager"}},
    )
    counted, model = recipe_flops(chosen), build_predictor(chosen)
    visible, masked = masks(1, masks_per_clip, 32, 32 - chosen.masked_tokens)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert count(model.encoder, clip, visible) == counted.encoder
    assert count(model, clip, visible, masked) == counted.encoder + sum(counted.decoders.values())
    for name, teacher in chosen.teachers.items():
        read = (masked[:, 0],) if masks_per_clip == 1 else ()
        assert count(build_teacher(name, teacher, chosen), clip, *read) == counted.teachers[name]


def test_blocks_of_today_equal_the_counter_of_torch(recipe, masks):
    today = {"position": "rope3d", "registers": 3, "mlp": "swiglu", "layer_scale": 0.1, "norm": "rmsnorm", "qk_norm": "head"}
    chosen = recipe(
        model={"attention": "eager", "mlp_ratio": 8 / 3, **today},
        masking={"masks_per_clip": 1, "kind": "random"},
        teachers={"video": {"attention": "eager", **today}},
    )
    counted, model = recipe_flops(chosen), build_predictor(chosen)
    visible, masked = masks(1, 1, 32, 32 - chosen.masked_tokens)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert count(model.encoder, clip, visible) == counted.encoder
    assert count(model, clip, visible, masked) == counted.encoder + sum(counted.decoders.values())
    teacher = build_teacher("video", chosen.teachers["video"], chosen)
    assert count(teacher, clip, masked[:, 0]) == counted.teachers["video"]


def test_training_counts_three_passes_of_what_is_trained(recipe, masks):
    chosen = recipe(model={"attention": "eager"}, masking={"masks_per_clip": 1, "kind": "random"})
    counted, model = recipe_flops(chosen), build_predictor(chosen)
    visible, masked = masks(1, 1, 32, 8)
    with FlopCounterMode(display=False) as counter:
        sum(out.sum() for out in model(torch.randn(1, 3, 4, 32, 32), visible, masked).values()).backward()
    pixels = 2 * 8 * 3 * 2 * 8 * 8 * 32  # pixels need no gradient
    assert counter.get_total_flops() == counted.training - sum(counted.teachers.values()) - pixels


@pytest.mark.parametrize("cls_token", [False, True])
@pytest.mark.parametrize("queries", [None, "one", "class"])
def test_a_classifier_equals_the_counter_of_torch(recipe, cls_token, queries):
    """Elementwise products of a query a class with the head, and its own key beside those of the patches, are left out."""
    chosen = recipe(model={"attention": "eager", "cls_token": cls_token, "mlp_ratio": 3.0})
    pooling = PoolingSettings() if queries is None else PoolingSettings(kind="attention", queries=queries)
    classifier = Classifier(chosen.model, chosen.grid, 7, pooling=pooling).eval()
    counted, width = classifier_flops(chosen.model, chosen.grid, 7, pooling), chosen.model.embed_dim
    left_out = {None: 0, "one": 4 * width**2 + 4 * width, "class": -2 * width * 7}[queries]
    assert count(classifier, torch.randn(1, 3, 4, 32, 32)) == counted + left_out


def test_stage_one_counts_pixels(image_recipe, masks):
    counted, model = recipe_flops(image_recipe), build_predictor(image_recipe)
    visible, masked = masks(1, 1, 16, 4)
    for module in model.modules():
        if hasattr(module, "kernel"):
            module.kernel = "eager"
    assert count(model, torch.randn(1, 3, 1, 32, 32), visible, masked) == counted.forward
    assert set(counted.decoders) == {"pixels"} and not counted.teachers
