"""Readouts of other tokens than the masked ones, and of other shapes."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, HeadShape
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.masked import MaskedPredictor

ENCODER = EncoderSettings(embed_dim=32, depth=2, num_heads=2, patch_px=8, cls_token=True)
SMALL = DecoderSettings(embed_dim=16, num_heads=2, depth=1)


def student(**heads: HeadShape) -> MaskedPredictor:
    return initialise(MaskedPredictor(ENCODER, (2, 2, 2), heads), 0).eval()


def predictions(model: MaskedPredictor) -> dict[str, torch.Tensor]:
    clip = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    visible, masked = torch.tensor([[[0, 3, 5]], [[1, 2, 7]]]), torch.tensor([[[4, 1]], [[0, 6]]])
    with torch.no_grad():
        return model(clip, visible, masked)


def test_one_decoder_predicts_masked_tokens_then_visible_ones() -> None:
    found = predictions(student(a=HeadShape(5, SMALL, "all")))["a"]
    masked = predictions(student(a=HeadShape(5, SMALL, "masked")))["a"]
    visible = predictions(student(a=HeadShape(5, SMALL, "visible")))["a"]
    assert found.shape == (2, 5, 5)
    torch.testing.assert_close(found, torch.cat((masked, visible), dim=1))


def test_every_target_has_a_decoder_of_its_own_shape() -> None:
    model = student(a=HeadShape(5, SMALL), b=HeadShape(7, DecoderSettings(depth=3)))
    assert model.block_counts == [2, 1, 3] and model.drop_path_blocks == 6
    assert {name: value.shape for name, value in predictions(model).items()} == {"a": (2, 2, 5), "b": (2, 2, 7)}
    with pytest.raises(ConfigError, match="do not all have one shape"):
        _ = model.decoder_settings
