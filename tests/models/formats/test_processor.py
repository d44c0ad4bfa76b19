"""The mean, deviation and size that a folder of others states are those that its classifier is used with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import mvd_ds
from mvd_ds.config import IMAGENET_MEAN, ConfigError
from mvd_ds.models.classifiers.classifier_folder import open_classifier

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8, "position": "sinusoid1d"}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def folder(path: Path, name: str = "preprocessor_config.json", **processor: Any) -> Path:
    mvd_ds.save(mvd_ds.build_classifier(SHAPE, 3, 4, 16), path / "hf", "huggingface")
    (path / "hf" / "preprocessor_config.json").unlink()
    (path / "hf" / name).write_text(json.dumps(processor))
    return path / "hf"


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("preprocessor_config.json", None),
        ("video_preprocessor_config.json", None),
        ("processor_config.json", "video_processor"),
        ("processor_config.json", "image_processor"),
    ],
)
def test_mean_and_deviation_are_read(tmp_path: Path, name: str, inside: str | None) -> None:
    values = HALVES if inside is None else {inside: HALVES}
    _, card = open_classifier(folder(tmp_path, name, **values))
    assert card.preprocessing.mean == card.preprocessing.std == (0.5, 0.5, 0.5)
    assert card.preprocessing.clip.size_px == 16


def test_without_a_processor_they_are_imagenets(tmp_path: Path) -> None:
    mvd_ds.save(mvd_ds.build_classifier(SHAPE, 3, 4, 16), tmp_path / "hf", "huggingface")
    assert open_classifier(tmp_path / "hf")[1].preprocessing.mean == IMAGENET_MEAN


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"rescale_factor": 2 / 255}, 0.25, 0.25),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 0.5, 0.5),
    ],
)
def test_factors_and_switches(tmp_path: Path, changes: dict[str, Any], mean: float, std: float) -> None:
    _, card = open_classifier(folder(tmp_path, **HALVES | changes))
    assert card.preprocessing.mean == pytest.approx((mean,) * 3) and card.preprocessing.std == pytest.approx((std,) * 3)


def test_what_is_done_otherwise_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = HALVES | {"size": {"shortest_edge": 20}, "crop_size": {"height": 24, "width": 24}, "resample": 3}
    with caplog.at_level(logging.INFO):
        _, card = open_classifier(folder(tmp_path, **values))
    assert card.preprocessing.clip.interpolation == "bicubic"
    text = caplog.text
    assert "cuts squares of 24 px, its network is for 16" in text and "resizes the short side to 20 px" in text
    assert "trained on pixels of mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5)" in text


def test_teachers_and_files_inside_of_a_folder_hear_of_it(tmp_path: Path) -> None:
    path = folder(tmp_path, **HALVES)
    for source in (path, path / "model.safetensors"):
        assert any("trained on pixels of mean (0.5" in note for note in mvd_ds.read_checkpoint(source).notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_mean": "x" * 10_000}, "image_mean: it takes three numbers"),
        ({"image_mean": [0.5]}, "image_mean: it takes three numbers"),
        ({"image_std": [0.5, True, 0.5]}, "image_std: it takes three numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "deviation of each colour has to be above 0"),
        ({"size": {"shortest_edge": "224"}}, "shortest_edge: it takes a whole number"),
        ({"crop_size": -3}, "crop_size: it takes a whole number"),
        ({"do_normalize": 1}, "do_normalize: it takes true or false"),
        ({"rescale_factor": []}, "rescale_factor: it takes a number"),
    ],
)
def test_values_that_cannot_be_meant(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        open_classifier(folder(tmp_path, **HALVES | changes))
    assert len(str(error.value)) < 400
