"""Patches and position tables against independent formulas."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from mvd_ds.models.embed import LearnedToken, PatchEmbed, Position, unfold


@pytest.mark.parametrize(("grid", "tubelet", "patch"), [((2, 3, 5), 2, 4), ((1, 2, 2), 1, 7), ((4, 1, 3), 3, 2)])
def test_patches_equal_a_convolution(grid, tubelet, patch):
    embed = PatchEmbed(6, grid, tubelet, patch)
    convolution = nn.Conv3d(3, 6, (tubelet, patch, patch), stride=(tubelet, patch, patch))
    convolution.load_state_dict(embed.state_dict())
    clip = torch.randn(2, 3, grid[0] * tubelet, grid[1] * patch, grid[2] * patch)
    expected = convolution(clip).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(clip), expected, rtol=1e-5, atol=1e-5)


def test_visible_only_equals_embedding_all_then_gathering(masks):
    embed = PatchEmbed(6, (2, 4, 4), 2, 4)
    visible, _ = masks(3, 2, 32, 5)
    clip = torch.randn(3, 3, 4, 16, 16)
    everything = embed(clip)
    expected = torch.stack([everything[b, visible[b, k]] for b, k in product(range(3), range(2))])
    assert embed(clip, visible).shape == (6, 5, 6)
    torch.testing.assert_close(embed(clip, visible), expected, rtol=1e-5, atol=1e-6)


def test_unfold_orders_tokens_by_slot_row_column():
    clip = torch.zeros(1, 3, 4, 8, 12)
    clip[0, 1, 2, 5, 9] = 1.0  # slot 1, row 1, column 2 of a (2, 2, 3) grid; colour 1, frame 0, row 1, column 1 of its patch
    patches = unfold(clip, [2, 4, 4])
    assert patches.shape == (1, 12, 96)
    token, element = patches[0].nonzero()[0].tolist()
    assert token == 1 * 6 + 1 * 3 + 2
    assert element == 1 * 32 + 0 * 16 + 1 * 4 + 1


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 20), (1, 1, 4, 16, 16), (1, 3, 6, 16, 16)])
def test_another_geometry_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(C, T, H, W\) must be \(3, 4, 16, 16\)"):
        PatchEmbed(6, (2, 4, 4), 2, 4)(torch.zeros(shape))


def sincos(position: float, channel: int, width: int) -> float:
    """Sines in the first half of the channels, cosines in the second."""
    half = width // 2
    angle = position / 10000 ** ((channel % half) / half)
    return math.sin(angle) if channel < half else math.cos(angle)


def expected_2d(row: int, column: int, channel: int, width: int) -> float:
    half = width // 2
    return sincos(column, channel, half) if channel < half else sincos(row, channel - half, half)


def expected_3d(slot: int, row: int, column: int, channel: int, width: int) -> float:
    quarter = width // 4
    return sincos(slot, channel, quarter) if channel < quarter else expected_2d(row, column, channel - quarter, width - quarter)


def expected_interleaved(token: int, channel: int, width: int) -> float:
    angle = token / 10000 ** (2 * (channel // 2) / width)
    return math.cos(angle) if channel % 2 else math.sin(angle)


def test_position_tables_follow_their_formulas():
    grid, width = (3, 2, 5), 32
    tables = {kind: Position(kind, grid, width).table for kind in ("sincos3d", "sincos2d", "sinusoid1d")}
    for token, (slot, row, column) in enumerate(product(*map(range, grid))):
        for channel in range(width):
            assert tables["sincos3d"][token, channel] == pytest.approx(expected_3d(slot, row, column, channel, width), abs=1e-7)
            assert tables["sincos2d"][token, channel] == pytest.approx(expected_2d(row, column, channel, width), abs=1e-7)
            assert tables["sinusoid1d"][token, channel] == pytest.approx(expected_interleaved(token, channel, width), abs=1e-7)


def test_positions_are_no_parameters_and_take_the_type_of_tokens():
    position = Position("sincos3d", (2, 2, 2), 16)
    assert not list(position.parameters())
    assert not position.state_dict()
    index = torch.tensor([[3, 1], [7, 0]])
    tokens = torch.zeros(2, 2, 16, dtype=torch.bfloat16)
    out = position(tokens, index)
    assert out.dtype == torch.bfloat16
    assert position.table.dtype == torch.float32
    assert torch.equal(out, position.table[index].bfloat16())
    assert torch.equal(position(torch.zeros(1, 8, 16))[0], position.table)


def test_the_mask_token_starts_within_one_std():
    token = LearnedToken(4096, std=0.02, truncate=True).weight.detach()
    assert token.abs().max() <= 0.02
    assert token.std().item() == pytest.approx(0.02 * 0.5397, rel=0.1)  # std of a normal cut at one std
    assert LearnedToken(4096, std=0.02).weight.abs().max() > 0.04
