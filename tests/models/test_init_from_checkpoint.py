"""What a classifier starts from: the whole encoder of a file, a fresh head, and one line for whatever does not fit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.config import ClipSettings, ConfigError, FinetuneRecipe, PreprocessingSettings, load_recipe
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard, save_classifier
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint
from mvd_ds.models.masked import MaskedPredictor

SHAPE = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_px": 8}
CLIP = {"frames": 4, "size_px": 16}


def _recipe(*overrides: str) -> FinetuneRecipe:
    model = ["model.size=null", *(f"model.{key}={value}" for key, value in SHAPE.items())]
    clip = [f"data.clip.{key}={value}" for key, value in CLIP.items()]
    recipe = load_recipe("quickstart_finetune", [*model, *clip, "weights=null", *overrides])
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


def _student() -> MaskedPredictor:
    return mvd_ds.build_student(SHAPE, {"embed_dim": 64, "num_heads": 2}, **CLIP, seed=5)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A distilled student as a published MVD file."""
    mvd_ds.save(_student(), tmp_path / "student.pth", "mvd")
    return tmp_path / "student.pth"


def test_the_encoder_is_loaded_whole_and_the_rest_is_named(student: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mvd_ds"):
        model = init_classifier_from_checkpoint(_recipe(f"weights={student}"), classes=7)
    stored = {name: value for name, value in _student().encoder.state_dict().items() if not name.startswith("norm.")}
    assert model.encoder.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.encoder.state_dict().items())
    scratch = init_classifier_from_checkpoint(_recipe(), classes=7).state_dict()
    state = model.state_dict()
    fresh = {name for name in state if torch.equal(state[name], scratch[name])}
    assert {"head.weight", "head.bias", "norm.weight", "norm.bias"} <= fresh
    assert not any(name.startswith("encoder.") and state[name].ndim > 1 for name in fresh)
    lines = [line for line in caplog.text.splitlines() if "tensors" in line]
    assert "norm.weight, norm.bias, head.weight, head.bias" in next(line for line in lines if " fresh " in line)
    assert "encoder.norm.weight" in next(line for line in lines if "not used" in line)
    assert state["head.weight"].shape == (7, 64) and model.head.weight.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.depth=3"], "another architecture: depth is 2 there and 3 in the recipe"),
        (["model.patch_px=4"], "patch_px is 8 there and 4"),
        (["keep_head=true"], "keep_head: there is no class head in it"),
        (["weights=nowhere.pth"], "weights: .*nowhere.pth"),
    ],
)
def test_what_does_not_fit_is_one_line(student: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        init_classifier_from_checkpoint(_recipe(f"weights={student}", *overrides), classes=7)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_of_the_encoder_is_refused(student: Path) -> None:
    state = torch.load(student, weights_only=True)
    del state["model"][next(name for name in state["model"] if name.endswith("blocks.1.mlp.fc1.weight"))]
    torch.save(state, student)
    with pytest.raises(ConfigError, match="1 missing"):
        init_classifier_from_checkpoint(_recipe(f"weights={student}"), classes=7)


def test_a_head_is_kept_when_asked_and_of_the_right_size(tmp_path: Path) -> None:
    model = mvd_ds.build_classifier(SHAPE, 7, **CLIP, seed=3)
    preprocessing = PreprocessingSettings(clip=ClipSettings(**CLIP))
    save_classifier(tmp_path / "model", model, model.state_dict(), ClassifierCard(tuple("abcdefg"), preprocessing), {})
    kept = init_classifier_from_checkpoint(_recipe(f"weights={tmp_path / 'model'}", "keep_head=true"), classes=7).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    fresh = init_classifier_from_checkpoint(_recipe(f"weights={tmp_path / 'model'}"), classes=9)
    assert fresh.head.out_features == 9
    assert torch.equal(fresh.encoder.patch_embed.weight, model.encoder.patch_embed.weight)
    with pytest.raises(ConfigError, match="its head has 7 classes, the manifest has 9; set keep_head to false"):
        init_classifier_from_checkpoint(_recipe(f"weights={tmp_path / 'model'}", "keep_head=true"), classes=9)


def test_dropout_follows_its_uniforms() -> None:
    model = mvd_ds.build_classifier(SHAPE, 5, **CLIP, dropout=0.25).train()
    clip = torch.randn(3, 3, 4, 16, 16)
    pooled = model.norm(model.pooling(model.encoder(clip)))
    uniforms = torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    expected = model.head(torch.where(uniforms < 0.25, 0.0, pooled / 0.75))
    torch.testing.assert_close(model(clip, None, uniforms), expected)
    torch.testing.assert_close(model.eval()(clip, None, uniforms), model.head(pooled))
