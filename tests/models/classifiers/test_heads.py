"""Heads on a frozen encoder: queries are seen by nobody, and see what the formula says."""

from __future__ import annotations

import contextlib
from typing import get_args

import pytest
import torch
from torch import Tensor

import mvd_ds
from mvd_ds.config import HeadSettings, ProbeRecipe
from mvd_ds.config.probing import VECTOR_HEADS
from mvd_ds.models.classifiers.heads import HEADS, AttentiveHead, KeysValues, QueryTuningHead, build_head
from mvd_ds.models.classifiers.pooling import layer_tokens
from mvd_ds.models.classifiers.tokens import FrozenTokens, TokenShape
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.prompts.table import PROMPTS
from mvd_ds.models.vit import VisionTransformer

SHAPE = {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_px": 8}
CLIP = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
IMAGE = {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "qkv_bias": "full", "cls_token": True}


@torch.no_grad()
def frozen_tokens(encoder: VisionTransformer, clip: Tensor, layers: bool) -> FrozenTokens:
    """What heads are given: tokens of the encoder's own forward, and keys and values of all layers."""
    with KeysValues(encoder) if layers else contextlib.nullcontext() as kept:
        tokens = layer_tokens(encoder, clip)
    cls, patches = tokens.unflatten(0, (len(clip), -1)).tensor_split((int(encoder.settings.cls_token),), dim=2)
    joined = torch.cat((cls.flatten(1, 2), patches.flatten(1, 2)), dim=1)
    return FrozenTokens(joined, kept.of_clips(len(clip)) if kept is not None else None)


@pytest.fixture
def encoder():
    built = mvd_ds.build_encoder(SHAPE, 4, 16).eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return built


def test_the_encoder_s_tokens_are_bit_identical_with_queries_and_without(encoder):
    alone = encoder(CLIP)
    head = initialise(QueryTuningHead(encoder, 5, queries=3), 0)
    frozen = frozen_tokens(encoder, CLIP, layers=True)
    assert torch.equal(frozen.tokens, alone)
    head(frozen)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1e3)
    head(frozen)
    assert torch.equal(frozen_tokens(encoder, CLIP, layers=True).tokens, alone)
    assert torch.equal(encoder(CLIP), alone)


@torch.no_grad()
def test_queries_attend_as_masked_tokens_of_the_layer_would(encoder):
    """The same by full attention over tokens and queries together, with a mask that hides all queries as keys."""
    encoder, clip = encoder.double(), CLIP.double()
    head = initialise(QueryTuningHead(encoder, 5, queries=2), 0).double()
    tokens, summaries = encoder.embed(clip), []
    count = tokens.shape[1]
    for block, queries in zip(encoder.blocks, head.queries, strict=True):
        joined = torch.cat((tokens, *(token(2, 1) for token in queries)), 1)
        normed = block.norm_attention(joined)
        query, key, value = block.attention.qkv(normed).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / 8**0.5
        scores[..., count:] = -torch.inf
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        joined = joined + block.attention.projection(attended)
        joined = joined + block.mlp(block.norm_mlp(joined))
        tokens = joined[:, :count]
        summaries.append(joined[:, count:])
    torch.testing.assert_close(encoder.norm(tokens), encoder(clip))
    pooled = torch.cat((encoder.norm(tokens).mean(1, keepdim=True), *summaries), 1)
    normed = (pooled - pooled.mean(-1, keepdim=True)) / (pooled.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(head(frozen_tokens(encoder, clip, layers=True)), head.head(normed.flatten(1)))
    assert head.head.in_features == (3 * 2 + 1) * 32


def test_only_the_head_learns(encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for head in (QueryTuningHead(encoder, 5), AttentiveHead(32, 4, 5)):
        initialise(head, 0)
        assert not any(parameter is mine for parameter in encoder.parameters() for mine in head.parameters())
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
        torch.nn.functional.cross_entropy(head(frozen_tokens(encoder, CLIP, layers=True)), torch.tensor([0, 1])).backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@torch.no_grad()
def test_an_attentive_head_is_its_formula(encoder):
    head = initialise(AttentiveHead(32, 4, 5), 0)
    frozen = frozen_tokens(encoder, CLIP, layers=False)
    assert frozen.keys_values is None
    query = head.query(2, 1)
    keys, values = head.to_keys_values(head.norm_tokens(frozen.tokens)).chunk(2, -1)
    weights = torch.stack(
        [
            (head.to_query(query)[..., part] @ keys[..., part].transpose(1, 2) / 8**0.5).softmax(-1) @ values[..., part]
            for part in (slice(8 * index, 8 * index + 8) for index in range(4))
        ],
        -2,
    ).flatten(-2)
    pooled = query + head.projection(weights)
    pooled = pooled + head.mlp(head.norm_mlp(pooled))
    torch.testing.assert_close(head(frozen), head.head(pooled[:, 0]))


@torch.no_grad()
def test_image_encoders_give_the_tokens_of_all_frames():
    encoder = mvd_ds.build_encoder(SHAPE | IMAGE, size_px=16).eval()
    frozen = frozen_tokens(encoder, CLIP, layers=True)
    assert frozen.tokens.shape == (2, 4 * 5, 32) and frozen.keys_values.shape == (2, 3, 4 * 5, 2, 4, 8)
    second = frozen_tokens(encoder, CLIP[:, :, 1:2], layers=True)
    torch.testing.assert_close(frozen.tokens[:, [1, *range(8, 12)]], second.tokens)
    torch.testing.assert_close(frozen.keys_values[:, :, 5:10], second.keys_values)
    assert QueryTuningHead(encoder, 5)(frozen).shape == (2, 5)


def test_the_table_has_every_head_that_the_settings_name() -> None:
    (annotation, _) = get_args(ProbeRecipe.model_fields["heads"].annotation)
    named = {name for part in get_args(annotation) for name in get_args(part)}
    assert named == {*VECTOR_HEADS, *HEADS, *PROMPTS, "zero_shot"}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_by_its_name(name: str) -> None:
    encoder = mvd_ds.build_encoder({"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 16}, frames=4, size_px=32)
    frozen = frozen_tokens(encoder, torch.randn(2, 3, 4, 32, 32), HEADS[name].needs_layers)
    first, again, other = (build_head(name, TokenShape.of(encoder, 4), 5, HeadSettings(), seed) for seed in (1, 1, 2))
    assert first(frozen).shape == (2, 5)
    assert torch.equal(first(frozen), again(frozen)) and not torch.equal(first(frozen), other(frozen))
