"""Rotary positions against their formulas: complex numbers, any subset of tokens, and the modules of V-JEPA 2 and DINOv3."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, HeadShape
from mvd_ds.models.attention import Attention
from mvd_ds.models.blocks.rotary import ROTATIONS, Rotary, rotate
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.cross_attention import CrossAttention
from mvd_ds.models.readouts import CrossDecoder, Decoder
from mvd_ds.runs.student import build_predictor

GRID = (3, 4, 4)
STUDENT = {"embed_dim": 40, "depth": 2, "num_heads": 2, "patch_px": 8, "position": "rope3d"}


def places(grid: tuple[int, int, int]) -> torch.Tensor:
    return torch.cartesian_prod(*(torch.arange(count, dtype=torch.float64) for count in grid))


def test_a_third_of_the_channels_turns_with_each_axis_as_complex_numbers_do():
    """d = 20: three axes of 6 channels, 3 pairs each; the last two channels are not turned."""
    packed = torch.randn(2, 48, 3, 20)
    turned = rotate(packed, Rotary("rope3d", GRID, 20)(), "rope3d")
    frequencies = 10000.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    for axis in range(3):
        part = slice(6 * axis, 6 * axis + 6)
        pairs = torch.view_as_complex(packed[..., part].double().unflatten(-1, (3, 2)).contiguous())
        angles = places(GRID)[:, axis, None] * frequencies
        expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]).flatten(-2)
        torch.testing.assert_close(turned[..., part].double(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(turned[..., 18:], packed[..., 18:])


@pytest.mark.parametrize("kind", ["rope3d", "rope2d"])
def test_products_depend_on_distances_alone(kind):
    query, key = torch.randn(2, 1, 1, 1, 24).expand(-1, -1, 16, -1, -1)
    turns = Rotary(kind, (1, 4, 4), 24)()
    products = rotate(query, turns, kind)[0, :, 0] @ rotate(key, turns, kind)[0, :, 0].T
    here = places((1, 4, 4))[:, 1:]
    distances = here[:, None] - here[None]
    seen: dict[tuple[float, ...], float] = {}
    for distance, product in zip(distances.flatten(0, 1).tolist(), products.flatten().tolist(), strict=True):
        assert seen.setdefault(tuple(distance), product) == pytest.approx(product, abs=1e-4)
    assert len({round(product, 3) for product in seen.values()}) > 30


def test_places_are_counted_on_a_grid_of_another_side():
    """V-JEPA 2.1: a 4 x 4 grid has the places 0, 5, 10, 15 of a 16 x 16 one."""
    own, other = Rotary("rope3d", (1, 4, 4), 24, side=16)(), Rotary("rope3d", (1, 16, 16), 24)()
    index = torch.tensor([row * 16 + column for row in (0, 5, 10, 15) for column in (0, 5, 10, 15)])
    torch.testing.assert_close(own, other[:, index])


@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_subset_of_tokens_has_their_turns_and_the_prefix_has_none(kind):
    rotary = Rotary(kind, (1, 4, 4), 24, prefix=2)
    index = torch.tensor([[15, 3, 8], [0, 1, 2]])
    turns = rotary(index)
    assert turns.shape == (2, 5, 2, 24)
    packed = torch.randn(2, 5, 3, 24)
    assert torch.equal(rotate(packed, turns, kind)[:, :2], packed[:, :2])
    assert torch.equal(turns[:, 2:], rotary()[0, 2:][index])


def test_the_table_stays_fp32_and_is_in_no_checkpoint():
    rotary = Rotary("rope3d", GRID, 24)
    exact = rotary.table.clone()
    assert torch.equal(rotary.bfloat16().table, exact) and not rotary.state_dict()
    turned = rotate(torch.randn(1, 48, 2, 24).bfloat16(), rotary(), "rope3d")
    assert turned.dtype == torch.bfloat16


def eager_subset(attention: Attention, tokens: torch.Tensor, index: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Attention of all tokens, turned at their places, from which the columns and rows of others are struck out."""
    width, heads = tokens.shape[-1], attention.heads
    query, key, value = (part.unflatten(-1, (heads, -1)) for part in attention.qkv(tokens).split(width, dim=-1))
    query, key = (rotate(part, turns, "rope3d").transpose(1, 2) for part in (query, key))
    scores = query @ key.transpose(-1, -2) * (width // heads) ** -0.5
    hidden = torch.ones(len(tokens), tokens.shape[1], dtype=torch.bool).scatter(1, index, False)
    weights = scores.masked_fill(hidden[:, None, None], float("-inf")).softmax(-1)
    mixed = (weights @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
    return attention.projection(mixed).gather(1, index[:, :, None].expand(-1, -1, width))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_visible_tokens_see_what_full_attention_restricted_to_them_sees(kernel):
    attention = Attention(48, 2, "full", kernel, BlockStyle(rotation="rope3d"))
    rotary, tokens = Rotary("rope3d", GRID, 24), torch.randn(2, 48, 48)
    index = torch.stack([torch.randperm(48)[:11] for _ in range(2)])
    visible = tokens.gather(1, index[:, :, None].expand(-1, -1, 48))
    expected = eager_subset(attention, tokens, index, rotary())
    torch.testing.assert_close(attention(visible, rotary(index)), expected, atol=1e-5, rtol=1e-4)


def test_a_student_of_rotary_blocks_gives_the_same_for_tokens_in_any_order(relative_error):
    model = mvd_ds.build_student(STUDENT | {"registers": 2, "cls_token": True}, targets={"video": 24}, frames=4, size_px=32)
    clip = torch.randn(1, 3, 4, 32, 32)
    order = torch.randperm(32)
    visible, masked = order[None, None, :9], order[None, None, 9:]
    forward = model(clip, visible, masked)["video"]
    backward = model(clip, visible.flip(-1), masked.flip(-1))["video"].flip(1)
    assert forward.shape == (1, 23, 24) and relative_error(backward, forward) < 1e-5
    moved = model(clip.flip(-1), visible, masked)["video"]
    assert relative_error(moved, forward) > 1e-2


def test_a_decoder_knows_the_places_of_masked_tokens():
    decoder = Decoder(HeadShape(8, DecoderSettings(embed_dim=24, num_heads=2)), EncoderSettings(**STUDENT), (2, 4, 4))
    encoded, visible = torch.randn(1, 4, 40), torch.tensor([[0, 9, 18, 27]])
    one, other = (decoder(encoded, visible, torch.tensor([[place, 30]])) for place in (1, 2))
    assert not torch.allclose(one[:, 0], other[:, 0])


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_cross_attention_turns_both_sides(kernel):
    """Queries and keys of one set of tokens: the rows of ``Attention`` with the same weights."""
    own, cross = Attention(48, 2, "full", kernel, BlockStyle(rotation="rope3d")), CrossAttention(48, 48, 2, kernel, "rope3d")
    cross.query.load_state_dict({"weight": own.qkv.weight[:48], "bias": own.qkv.bias[:48]})
    cross.key_value.load_state_dict({"weight": own.qkv.weight[48:], "bias": own.qkv.bias[48:]})
    cross.projection.load_state_dict(own.projection.state_dict())
    tokens, turns = torch.randn(2, 48, 48), Rotary("rope3d", GRID, 24)()
    found = cross(tokens[:, 5:9], tokens, turns[:, 5:9], turns)
    torch.testing.assert_close(found, own(tokens, turns)[:, 5:9], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cls_token", [False, True])
def test_a_cross_decoder_knows_places(cls_token):
    encoder = EncoderSettings(**STUDENT, cls_token=cls_token, activation_checkpointing=1)
    shape = HeadShape(8, DecoderSettings(embed_dim=24, num_heads=2, attention="cross"))
    decoder = CrossDecoder(shape, encoder, (2, 4, 4))
    encoded, visible = torch.randn(1, 4 + cls_token, 40), torch.tensor([[0, 9, 18, 27]])
    one, other = (decoder(encoded, visible, torch.tensor([[place, 30]])) for place in (1, 2))
    assert not torch.allclose(one[:, 0], other[:, 0]) and torch.allclose(one[:, 1], other[:, 1], atol=1e-6)


def test_rotary_blocks_do_not_run_without_their_turns():
    with pytest.raises(AssertionError, match="turns are for rotary positions"):
        Attention(48, 2, "full", "sdpa", BlockStyle(rotation="rope3d"))(torch.randn(1, 3, 48))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"embed_dim": 32, "num_heads": 8}, "position rope3d needs embed_dim of 6 channels or more in every head"),
        ({"position": "rope2d"}, "a video encoder has position"),
        ({"position": "sincos3d", "embed_dim": 32, "rope_side": 16}, "rope_side is for position rope3d"),
    ],
)
def test_what_cannot_be_turned_is_refused(more, words):
    with pytest.raises(ConfigError, match=words):
        mvd_ds.build_encoder(STUDENT | more, 4, 32)


def test_a_recipe_may_have_both(recipe, masks):
    model = {"position": "rope3d", "embed_dim": 48, "num_heads": 3, "registers": 2}
    student = build_predictor(recipe(model=model, decoder={"attention": "cross", "levels": "blocks"}))
    visible, masked = masks(1, 1, 32, 8)
    found = student(torch.randn(1, 3, 4, 32, 32), visible, masked)
    assert {name: tuple(value.shape) for name, value in found.items()} == {"image": (1, 24, 24), "video": (1, 24, 40)}


def test_decoder_heads_that_are_too_narrow_are_refused(recipe):
    with pytest.raises(ConfigError, match=r"position rope3d needs decoder\.embed_dim of 6 channels or more in every head"):
        recipe(model={"position": "rope3d", "embed_dim": 48, "num_heads": 3}, decoder={"embed_dim": 12, "num_heads": 3})
