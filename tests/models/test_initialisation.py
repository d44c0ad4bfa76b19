"""Initial weights: from the seed and the name, of the documented distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mvd_ds.models.initialisation import build_without_weights, initialise
from mvd_ds.runs.student import build_predictor


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_weights_depend_on_the_seed_alone(recipe):
    torch.manual_seed(1)
    first = build_predictor(recipe(run={"seed": 7}))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build_predictor(recipe(run={"seed": 7}))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert same(first, second)
    assert not same(first, build_predictor(recipe(run={"seed": 8})))


def test_another_teacher_moves_no_weight(recipe, video_teacher):
    two = build_predictor(recipe())
    three = build_predictor(recipe(teachers={"a_third": video_teacher}))
    assert same(two.encoder, three.encoder)
    assert same(two.decoders["image"], three.decoders["image"])
    assert not same(two.decoders["video"], three.decoders["a_third"]), "two decoders of one shape start differently"


def test_distributions(recipe):
    model = build_predictor(recipe(model={"embed_dim": 192, "num_heads": 4}))
    seen = set()
    for name, parameter in model.state_dict().items():
        assert parameter.dtype == torch.float32 and torch.isfinite(parameter).all()
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all()
        elif name.startswith("encoder.patch_embed"):
            limit = 1 / math.sqrt(3 * 2 * 8 * 8)  # kaiming-uniform with a = sqrt 5 is uniform within 1 / sqrt(fan in)
            assert limit * 0.9 < parameter.abs().max() <= limit
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        elif name.endswith("mask_token.weight"):
            assert 0.015 < parameter.abs().max() <= 0.02
        else:
            limit = math.sqrt(6 / sum(parameter.shape))
            assert limit * 0.98 < parameter.abs().max() <= limit, name
            assert parameter.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
        seen.add(name.split(".")[0])
    assert seen == {"encoder", "decoders"}


def test_image_encoders_start_as_mae(image_recipe):
    encoder = build_predictor(image_recipe).encoder
    limit = math.sqrt(6 / (24 + 3 * 8 * 8))
    assert limit * 0.98 < encoder.patch_embed.weight.abs().max() <= limit
    assert 0.02 < encoder.cls_token.weight.abs().max() < 0.1


def test_positions_survive_building_without_weights(recipe):
    tables = {name: buffer for name, buffer in build_predictor(recipe()).named_buffers() if name.endswith("position.table")}
    assert len(tables) == 3
    assert all(table.device.type == "cpu" and table[0, -1] == 1.0 for table in tables.values())


def test_a_module_without_a_rule_is_refused():
    with pytest.raises(TypeError, match=r"no initial weights are defined for odd\.0 \(Conv1d\)"):
        initialise(build_without_weights(lambda: nn.Sequential(nn.Conv1d(1, 1, 1))), 0, prefix="odd")
