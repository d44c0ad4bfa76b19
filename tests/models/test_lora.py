"""Products of low rank: zero at first, equal to their merge, on the maps that are named and trained alone."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
from mvd_ds.config import AdaptationSettings, ConfigError, validate
from mvd_ds.models.classifiers.adaptation import freeze
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.lora import low_rank_maps, merged

SETTINGS = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 8}
CLIP = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
EVERYWHERE = ("qkv", "projection", "mlp")


def adapted(learnt: bool, **settings: object) -> tuple[Classifier, Classifier, AdaptationSettings]:
    """A classifier, the same with products of low rank, and their settings."""
    more = settings.pop("model", {})
    plain, model = (mvd_ds.build_classifier(SETTINGS | more, 5, 4, 16).eval() for _ in range(2))
    chosen = AdaptationSettings(kind="lora", **settings)
    for name in freeze(model, chosen):
        initialise(model.get_submodule(name), 3)
        if learnt:
            torch.nn.init.normal_(model.get_submodule(name).up, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    plain.head.load_state_dict(model.head.state_dict())
    return plain, model, chosen


@pytest.mark.parametrize("odd", [{"layers": (1, 1)}, {"layers": ()}, {"parts": ("qkv", "mlp", "qkv")}])
def test_no_map_is_named_twice(odd: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"adaptation\.{next(iter(odd))} .*each once"):
        AdaptationSettings(kind="lora", **odd)


@torch.no_grad()
@pytest.mark.parametrize("style", [{}, {"mlp": "swiglu", "qkv_bias": "full", "qk_norm": "head", "layer_scale": 0.5}])
def test_merged_equals_unmerged(style: dict[str, object]) -> None:
    plain, model, chosen = adapted(True, rank=3, alpha=5.0, parts=EVERYWHERE, model=style)
    expected = model(CLIP)
    assert (expected - plain(CLIP)).abs().max() > 0.1, "the products do something"
    plain.load_state_dict(merged(model.state_dict(), chosen.alpha / chosen.rank))
    torch.testing.assert_close(plain(CLIP), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_nothing_changes_before_the_first_step() -> None:
    plain, model, _ = adapted(False, parts=EVERYWHERE)
    assert torch.equal(plain(CLIP), model(CLIP))


def test_only_what_is_added_and_the_head_is_trained() -> None:
    _, model, _ = adapted(True, rank=4, layers=(0, 2), parts=("qkv", "mlp"))
    model(CLIP).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    maps = [f"encoder.blocks.{layer}.{path}" for layer in (0, 2) for path in ("attention.qkv", "mlp.expand", "mlp.contract")]
    assert sorted(low_rank_maps(model.state_dict())) == sorted(maps)
    expected = {f"{name}.low_rank.{part}" for name in maps for part in ("down", "up")}
    assert trained == expected | {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert model.encoder.blocks[0].attention.qkv.low_rank.down.shape == (4, 32)
    assert all(model.get_submodule(name).low_rank.down.grad.abs().sum() > 0 for name in maps)


def test_a_frozen_encoder_has_no_products_and_no_gradients() -> None:
    model = mvd_ds.build_classifier(SETTINGS, 5, 4, 16)
    assert freeze(model, AdaptationSettings(kind="frozen")) == [] and freeze(model, AdaptationSettings()) == []
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_faults_are_one_line() -> None:
    model = mvd_ds.build_classifier(SETTINGS, 5, 4, 16)
    with pytest.raises(ConfigError, match=r"adaptation.layers \[1, 3\]: the encoder has blocks 0 to 2"):
        freeze(model, AdaptationSettings(kind="lora", layers=(1, 3)))
    with pytest.raises(ValueError, match="rank belong to adaptation lora, not to frozen"):
        AdaptationSettings(kind="frozen", rank=4)
    values = {"objective": "classification", "model": SETTINGS | {"drop_path": 0.1}, "adaptation": "frozen"}
    more = {"data": {"manifest": "train.txt"}, "schedule": {"epochs": 1}, "batch": {"global": 4, "micro": 4}}
    with pytest.raises(ConfigError, match=r"a frozen encoder drops nothing; set model\.drop_path=0"):
        validate(values | more | {"optimizer": {"base_lr": 1e-3}, "run": {"output": "x"}}, "r")
