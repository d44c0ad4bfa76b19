"""Encoders of any file for any clip."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
import published
from mvd_ds.config import ConfigError
from mvd_ds.models import save_model
from mvd_ds.models.building import is_run_model, network_of, open_encoder
from mvd_ds.runs.student import build_predictor


def test_an_encoder_for_other_clips(tmp_path):
    torch.save({"model": published.mae()}, tmp_path / "mae.pth")
    with pytest.raises(ConfigError, match="does not say how many heads"):
        open_encoder(tmp_path / "mae.pth", 4, 48)
    mvd_ds.save(mvd_ds.open_model(tmp_path / "mae.pth", encoder={"num_heads": 5})[0], tmp_path / "ours")
    encoder = open_encoder(tmp_path / "ours", 4, 48)
    assert encoder.grid == (1, 6, 6) and not encoder.training
    assert encoder(torch.zeros(2, 3, 1, 48, 48)).shape == (2, 37, 40)
    with pytest.raises(ConfigError, match="clip of 50 px is not divisible by patch_px 8"):
        open_encoder(tmp_path / "ours", 4, 50)


def test_models_of_runs_are_told_from_others(video_recipe, tmp_path):
    save_model(tmp_path / "run", build_predictor(video_recipe).state_dict(), video_recipe, {})
    mvd_ds.save(mvd_ds.build_encoder({"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}, 4, 16), tmp_path / "converted")
    torch.save({"model": published.mae()}, tmp_path / "mae.pth")
    assert is_run_model(tmp_path / "run") and is_run_model(tmp_path / "run" / "model.safetensors")
    assert is_run_model(tmp_path / "nowhere"), "the error about it is the one of runs"
    assert not is_run_model(tmp_path / "converted") and not is_run_model(tmp_path / "mae.pth")


def test_a_model_describes_itself():
    for model in (
        mvd_ds.build_student({"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}, {"depth": 1}, {"a": 3}, 4, 16),
        mvd_ds.build_classifier({"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}, 5, 4, 16, norm_eps=1e-4),
    ):
        network = network_of(model)
        assert network.grid == (2, 2, 2) and network.clip == {"frames": 4, "size_px": 16}
        assert network.outputs == ({"a": 3} if network.classifier is None else {})
    assert {"classes": 5, "norm_eps": 1e-4}.items() <= network.classifier.items()
    assert network.classifier["pooling"]["kind"] == "mean"
