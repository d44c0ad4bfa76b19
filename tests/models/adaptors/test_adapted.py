"""An encoder with adaptors: heads on visible tokens, standardisation undone, names that are not there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvd_ds.config import AdaptorSettings, ConfigError, DecoderSettings, EncoderSettings
from mvd_ds.models.adaptors.adapted import AdaptedEncoder, Undo
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.masked import MaskedPredictor

ENCODER = EncoderSettings(embed_dim=32, depth=2, num_heads=2, patch_px=16)
GRID = (2, 4, 4)
DECODER = DecoderSettings(embed_dim=16, depth=1, num_heads=2)
CARDS = {name: AdaptorSettings(width=width, tokens="masked", decoder=DECODER) for name, width in {"mae": 24, "clip": 40}.items()}


def adapted() -> AdaptedEncoder:
    return initialise(AdaptedEncoder(ENCODER, GRID, CARDS), 0).eval()


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_blocks_run_on_visible_tokens_and_the_head_is_applied_there() -> None:
    model, clip = adapted(), clips()
    decoder, encoded = model.decoders["mae"], model.encoder(clip)
    tokens = decoder.blocks[0](decoder.position(decoder.projection(encoded), torch.arange(32).expand(2, -1)))
    torch.testing.assert_close(model.adapt("mae", clip), decoder.head(decoder.norm(tokens)))
    found, answers = model(clip)
    assert torch.equal(found, encoded) and {name: tuple(answer.shape) for name, answer in answers.items()} == {
        "mae": (2, 32, 24),
        "clip": (2, 32, 40),
    }


@torch.no_grad()
def test_cross_attention_asks_by_mask_tokens_at_every_place() -> None:
    decoder = DecoderSettings(embed_dim=16, depth=2, num_heads=2, attention="cross", levels="blocks")
    cards = {"mae": AdaptorSettings(width=24, tokens="masked", decoder=decoder)}
    model, clip = initialise(AdaptedEncoder(ENCODER, GRID, cards), 0).eval(), clips()
    student = MaskedPredictor(ENCODER, GRID, {"mae": cards["mae"].shape}).eval()
    student.load_state_dict(model.state_dict())
    everything = torch.arange(32).expand(2, 1, -1)
    torch.testing.assert_close(model.adapt("mae", clip), student(clip, everything, everything)["mae"])


@pytest.mark.parametrize("parts", [1, 3])
def test_every_part_is_undone_by_itself(parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, parts, 8, generator=generator) * 7 + 100
    rotation = torch.linalg.qr(torch.randn(parts, 8, 8, generator=generator))[0]
    shift, factor = torch.randn(parts, 8, generator=generator) * 100, torch.rand(parts, 1, generator=generator).expand(-1, 8) + 1
    undo = Undo(parts, 8, is_rotated=True)
    undo.load_state_dict({"factor": factor, "shift": shift, "rotation": rotation})
    standardised = torch.stack([(features[:, :, i] - shift[i]) @ rotation[i].T / factor[i] for i in range(parts)], dim=2)
    torch.testing.assert_close(undo(standardised.flatten(-2)), features.flatten(-2), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_answers_are_undone_in_fp32_whatever_the_network_computes_in() -> None:
    model, clip = adapted(), clips()
    model.undo_by("mae", torch.full((1, 24), 2.0), torch.full((1, 24), 1000.0), None)
    expected = model.adapt("mae", clip)
    model.in_precision(torch.bfloat16)
    found = model.adapt("mae", clip.bfloat16())
    assert found.dtype == torch.float32 and not torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.1)


def test_a_name_that_is_not_there_is_answered_by_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no adaptor 'mea'; did you mean 'mae'"):
        adapted().adapt("mea", clips())
