"""Local crops: the box is a function of seed and place, the pixels are those of the box, the tokens those of the middle."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from mvd_ds.config import TrainingRecipe, validate
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.training.device_crops import crop_boxes, hashed_uniforms
from mvd_ds.training.prototype_inputs import PrototypeInputs

WORD = (1 << 64) - 1


def recipe(**prototypes: Any) -> TrainingRecipe:
    head = {"outputs": 5, "local_crops": 2, "local_px": 16, "hidden": 8, "bottleneck": 4} | prototypes
    values = {
        "objective": "distillation",
        "data": {"clip": {"frames": 4, "size_px": 32}},
        "masking": {"ratio": 0.3, "kind": "random"},
        "model": {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8, "cls_token": True},
        "teachers": {"own": {"weights": "ema", "target": {"kind": "prototypes", "norm": "final", "prototypes": head}}},
        "optimizer": {"ema_decay": 0.9},
        "schedule": {"steps": 2},
        "batch": {"micro": 4, "global": 8},
        "engine": {"precision": "fp32"},
    }
    made = validate(values, "test")
    assert isinstance(made, TrainingRecipe)
    return made


def split_mix(seed: int, place: int, count: int) -> list[float]:
    """The numbers of one clip in Python's own integers."""
    found = []
    for index in range(count):
        z = ((place * count + index) * 0x9E3779B97F4A7C15 + (seed + 1) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        found.append(((z ^ (z >> 31)) >> 11) * 2.0**-53)
    return found


def test_uniforms_are_those_of_split_mix_and_of_place_and_seed_alone() -> None:
    places = torch.tensor([0, 7, sys.maxsize // 100])
    uniforms = hashed_uniforms(3, places, 8)
    assert uniforms.tolist() == [split_mix(3, place, 8) for place in places.tolist()]
    assert hashed_uniforms(3, places[1:2], 8).equal(uniforms[1:2]) and not hashed_uniforms(4, places, 8).equal(uniforms)
    many = hashed_uniforms(0, torch.arange(1000), 4)
    assert many.mean().item() == pytest.approx(0.5, abs=0.02) and many.std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_boxes_lie_in_the_frame_and_have_the_areas_asked_for() -> None:
    boxes = crop_boxes(hashed_uniforms(0, torch.arange(500), 4), (0.05, 0.25))
    assert (boxes >= 0).all() and ((boxes[:, :2] + boxes[:, 2:]) <= 1 + 1e-9).all()
    area = boxes[:, 2] * boxes[:, 3]
    assert area.min() >= 0.05 - 1e-9 and area.max() <= 0.25 + 1e-9


def test_a_crop_shows_its_box_at_all_times_in_the_middle_of_the_clip() -> None:
    made = recipe()
    inputs, batch = PrototypeInputs(made), random_batch(made, 0)
    rows = torch.arange(32)[:, None] + 0.5
    ramp = (rows * 4).expand(32, 32).round().to(torch.uint8).expand(4, 3, 4, 32, 32)
    given = inputs(batch._replace(views={32: ramp}))
    assert given["local"].shape == (8, 3, 4, 32, 32) and "learning" not in given
    crop = given["local"][:, :, :, 8:24, 8:24]
    assert given["local"].sum().item() == pytest.approx(crop.sum().item()), "all else is empty"
    boxes = crop_boxes(hashed_uniforms(0, batch.place, 8).unflatten(1, (2, 4)), (0.05, 0.25)).flatten(0, 1)
    middle = 32 * (boxes[:, 0] + boxes[:, 2] * (torch.arange(16)[:, None] + 0.5) / 16) * 4 / 255
    assert torch.allclose(crop[:, 0, 2, :, 5].double(), middle.T, atol=0.012)
    assert given["local_visible"][3, 0].tolist() == [
        16 * slot + 4 * row + column for slot in (0, 1) for row in (1, 2) for column in (1, 2)
    ]


def test_prototypes_learn_from_the_step_that_is_set() -> None:
    made = recipe(frozen_steps=3, local_crops=0)
    inputs, batch = PrototypeInputs(made), random_batch(made, 0)
    assert [inputs(batch._replace(place=batch.place * 0 + place))["learning"].item() for place in (0, 23, 24)] == [0, 0, 1]
    assert PrototypeInputs(recipe(local_crops=0))(batch) == {}
