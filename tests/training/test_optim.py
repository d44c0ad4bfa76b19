"""Parameter groups: what decays is said by shape and name, and said aloud."""

from __future__ import annotations

import pytest

import mvd_ds
from mvd_ds.config import OptimizerSettings, TrainingRecipe, load_recipe
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.optim import describe_groups, group_rows, parameter_groups


def test_mask_tokens_decay_and_vectors_do_not() -> None:
    recipe = load_recipe("quickstart_distill")
    assert isinstance(recipe, TrainingRecipe)
    model = build_predictor(recipe)
    decay, no_decay = parameter_groups(model, recipe.optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for p in decay["params"]}
    rest = {names[id(p)] for p in no_decay["params"]}
    assert decayed | rest == set(names.values()) and not decayed & rest
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    assert all(f"decoders.{name}.mask_token" in " ".join(decayed) for name in ("image", "video"))
    assert all(name.endswith((".weight", "bias")) and dict(model.named_parameters())[name].ndim == 1 for name in rest)


def test_frozen_parameters_are_in_no_group() -> None:
    recipe = load_recipe("quickstart_image")
    assert isinstance(recipe, TrainingRecipe)
    model = build_predictor(recipe)
    model.encoder.requires_grad_(False)
    groups = parameter_groups(model, OptimizerSettings())
    members = {id(p) for group in groups for p in group["params"]}
    assert members == {id(p) for p in model.decoders.parameters()}
    decayed = sum(p.numel() for p in groups[0]["params"])
    assert describe_groups(groups) == f"{decayed:,} with weight decay, in 2 groups"
    assert group_rows(groups)[0] == {
        "name": "decay", "tensors": len(groups[0]["params"]), "parameters": decayed, "weight_decay": 0.05, "lr_scale": 1.0,
    }  # fmt: skip
    full = parameter_groups(model.requires_grad_(True), OptimizerSettings())
    assert any("cls_token" in n for n, p in model.named_parameters() if id(p) in {id(q) for q in full[1]["params"]})


def test_layer_decay_is_the_published_formula() -> None:
    """Scale = decay^(depth + 1 - id): embeddings have id 0, block i has i + 1, norm and head have depth + 1."""
    depth, decay = 4, 0.75
    model = mvd_ds.build_classifier({"embed_dim": 32, "depth": depth, "num_heads": 2, "patch_px": 8}, 5, 4, 16)
    groups = parameter_groups(model, OptimizerSettings(layer_decay=decay))
    found = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        layer = 0 if "patch_embed" in name else depth + 1
        if "blocks." in name:
            layer = int(name.split("blocks.")[1].split(".")[0]) + 1
        assert found[id(parameter)] == (pytest.approx(decay ** (depth + 1 - layer)), 0.05 if parameter.ndim > 1 else 0.0), name
    assert len(groups) == 2 * (depth + 2)
    assert len(parameter_groups(model, OptimizerSettings())) == 2
    assert describe_groups(groups).endswith(" with weight decay, rates of layers x 0.237 to 1, in 12 groups")
    assert [row["lr_scale"] for row in group_rows(groups)[::2]] == pytest.approx([decay ** (depth + 1 - i) for i in range(6)])
