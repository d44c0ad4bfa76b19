"""Formats of others: what cannot be expressed is named part by part, and what can be written instead is offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mvd_ds
from mvd_ds.config import ConfigError

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}
IMAGE = SHAPE | {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "qkv_bias": "full", "cls_token": True}
VIDEO = SHAPE | {"position": "sinusoid1d"}


def student(shape: dict[str, Any], decoder: dict[str, Any] | None = None, **targets: int) -> Any:
    return mvd_ds.build_student(shape, decoder or {"depth": 1}, targets=targets, frames=2, size_px=16)


def refusal(model: Any, folder: Path, format: str = "huggingface") -> str:
    with pytest.raises(ConfigError) as error:
        mvd_ds.save(model, folder / "out", format)
    assert not list(folder.iterdir()) and "\n" not in str(error.value)
    return str(error.value)


def test_a_student_of_two_teachers_has_a_place_for_its_encoder(tmp_path: Path) -> None:
    said = refusal(student(VIDEO, image=8, video=8), tmp_path)
    assert "'hf_videomae_pretraining' cannot hold this model: it has no place for the decoder of 'image' (" in said
    assert "it has no place for the decoder of 'video' (" in said and "position" not in said
    assert "formats that hold it: mvd_ds; its encoder alone: huggingface_encoder; `export SOURCE FOLDER --graph onnx`" in said
    notes = mvd_ds.save(student(VIDEO, image=8, video=8), tmp_path / "out", "huggingface_encoder")
    assert any("left out, 'hf_videomae' holds an encoder alone: the decoder of 'image' (" in note for note in notes)


def test_position_tables_and_other_formats_are_named(tmp_path: Path) -> None:
    said = refusal(student(SHAPE, image=8, video=8), tmp_path)
    assert "position is sincos3d and would have to be sinusoid1d" in said and "the decoder of 'image'" in said
    assert "formats that hold it: mvd_ds, mvd; `export" in said, "published MVD has these tables and both decoders"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"layer_scale": 1e-5}, "layer_scale is 1e-05 and would have to be None"),
        ({"registers": 2}, "registers is 2 and would have to be 0"),
    ],
)
def test_parts_of_the_encoder_are_named(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    said = refusal(mvd_ds.build_encoder(VIDEO | change, 2, 16), tmp_path)
    assert part in said and "formats that hold it: mvd_ds; `export SOURCE FOLDER --graph onnx` writes its features" in said


def test_a_class_head_that_pools_otherwise_and_a_classifier_of_images(tmp_path: Path) -> None:
    said = refusal(mvd_ds.build_classifier(VIDEO, 3, 2, 16, pooling={"kind": "ggem"}), tmp_path)
    assert "pooling.kind is ggem and would have to be mean" in said and "it has no place for the class head's pooling (" in said
    assert "its encoder alone: huggingface_encoder" in said and "writes its logits" in said
    said = refusal(mvd_ds.build_classifier(IMAGE, 3, 1, 16), tmp_path)
    assert "'hf_vitmae_classifier' cannot hold this model: there is no such network in transformers" in said
    assert "formats that hold it: mvd_ds; `export" in said, "its encoder has no last norm, and ViTMAE's and MAE's have"


def test_decoders_that_compute_otherwise_are_not_written_as_if_they_did_not(tmp_path: Path) -> None:
    model = student(VIDEO, {"depth": 1, "attention": "cross", "projection_bias": False}, pixels=8)
    assert "holds decoders of one shape for masked tokens; this one has others (pixels)" in refusal(model, tmp_path, "videomae")
