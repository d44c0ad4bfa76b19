"""A student's start: the encoder of a pretrained file, its decoders where they are asked for, the seed for the rest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import mvd_ds
import published
from mvd_ds.config import ConfigError, TrainingRecipe, validate
from mvd_ds.runs.student import build_predictor, plan_predictor

SIZES = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_px": 8, "mlp_ratio": 2.5}
CLIP = {"frames": published.FRAMES, "size_px": published.SIDE}
STYLES = {"vjepa2": {"network_style": "vjepa2"}, "videomae": {"position": "sinusoid1d"}}


def recipe(weights: Path | None, style: str, **init: Any) -> TrainingRecipe:
    """Distillation from a random teacher, or stage one where the decoders start from the file."""
    decoder = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.25, "projection_bias": False}
    teacher = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_px": 8, "position": "sinusoid1d", "weights": "random"}
    stage_one = {"objective": "video_reconstruction", "pixels": {}}
    values = stage_one if init.get("decoders") else {"objective": "distillation", "teachers": {"video": teacher}}
    values |= {"data": {"clip": CLIP}, "masking": {"ratio": 0.75}, "model": SIZES | STYLES[style], "decoder": decoder}
    if weights is not None:
        values["init"] = {"weights": str(weights), **init}
    built = validate({**values, "schedule": {"steps": 2}}, "test")
    assert isinstance(built, TrainingRecipe)
    return built


@pytest.fixture
def vjepa2(tmp_path: Path) -> Path:
    """An encoder of V-JEPA 2 in the layout of Hugging Face."""
    encoder = mvd_ds.build_encoder(SIZES | STYLES["vjepa2"], **CLIP, seed=9)
    mvd_ds.save(encoder, tmp_path / "vjepa2", "huggingface")
    return tmp_path / "vjepa2"


def test_a_student_starts_from_vjepa2(vjepa2: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mvd_ds"):
        student = build_predictor(recipe(vjepa2, "vjepa2"))
    stored, drawn = mvd_ds.open_model(vjepa2)[0].state_dict(), build_predictor(recipe(None, "vjepa2"))
    assert all(torch.equal(value, stored[name]) for name, value in student.encoder.state_dict().items())
    assert not torch.equal(drawn.encoder.blocks[0].attention.qkv.weight, student.encoder.blocks[0].attention.qkv.weight)
    pairs = zip(student.decoders.state_dict().values(), drawn.decoders.state_dict().values(), strict=True)
    assert all(torch.equal(value, other) for value, other in pairs), "decoders start from the seed as they would without"
    assert f"loaded     {len(stored):4d} tensors: encoder, whole" in caplog.text


def test_built_part_by_part_it_is_the_same(vjepa2: Path) -> None:
    plan = plan_predictor(recipe(vjepa2, "vjepa2"))
    whole, found = plan.build().state_dict(), {}
    for name, module in plan.parts(plan.skeleton()):
        found |= {f"{name}.{key}": value.clone() for key, value in module.named_parameters(recurse=False)}
    assert found.keys() == whole.keys() and all(torch.equal(value, whole[name]) for name, value in found.items())


def test_stage_one_of_videomae_goes_on(tmp_path: Path) -> None:
    torch.save({"model": published.videomae()}, tmp_path / "videomae.pth")
    stored = mvd_ds.read_checkpoint(tmp_path / "videomae.pth").state
    width = len(stored["decoders.pixels.head.weight"])
    assert width == 3 * 2 * 8 * 8
    for decoders in (True, False):
        student = build_predictor(recipe(tmp_path / "videomae.pth", "videomae", decoders=decoders)).state_dict()
        same = {name for name, value in stored.items() if name in student and torch.equal(value, student[name])}
        assert {name for name in same if name.startswith("encoder.")} == {n for n in stored if n.startswith("encoder.")}
        assert (same == set(stored) == set(student)) is decoders


def test_a_fine_tuned_network_lends_all_but_the_norm_it_has_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = mvd_ds.build_classifier(SIZES | STYLES["videomae"], 5, **CLIP, seed=2)
    mvd_ds.save(classifier, tmp_path / "tuned", "huggingface")
    with caplog.at_level(logging.INFO, "mvd_ds"):
        student = build_predictor(recipe(tmp_path / "tuned", "videomae"))
    assert "encoder but for the norm after its last block" in caplog.text
    assert (student.encoder.norm.weight == 1).all() and (student.encoder.norm.bias == 0).all()
    assert torch.equal(student.encoder.blocks[2].mlp.expand.weight, classifier.encoder.blocks[2].mlp.expand.weight)


@pytest.mark.parametrize(
    ("style", "init", "words"),
    [
        ("videomae", {}, "another architecture: position is rope3d_vjepa2 there and sinusoid1d in the recipe; qkv_bias is full"),
        ("vjepa2", {"decoders": True}, "init.decoders: the student's decoders are pixels, the file's none; set it to false"),
        (None, {}, "init.weights: nowhere: there is no such file or folder"),
    ],
)
def test_what_does_not_fit_is_one_line(vjepa2: Path, style: str | None, init: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_predictor(recipe(vjepa2 if style else Path("nowhere"), style or "vjepa2", **init))
    assert words in str(error.value) and "\n" not in str(error.value)
