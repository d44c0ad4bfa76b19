"""Pooling by class queries: its formula, its maps, and what constant tokens give."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import mvd_ds
from mvd_ds.config import ConfigError, EncoderSettings, PoolingSettings
from mvd_ds.models.classifiers.class_attention import ClassAttention, PatchMaps
from mvd_ds.models.classifiers.pooling import encoder_pooling
from mvd_ds.models.initialisation import initialise
from mvd_ds.training.optim import parameter_groups

SETTINGS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}
CLIP = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
PATCHES = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(1))


def gatherer(queries: int) -> ClassAttention:
    return initialise(ClassAttention(12, queries, 0.5), 0)


@torch.no_grad()
@pytest.mark.parametrize("queries", [1, 5])
def test_attention_in_one_head_is_the_softmax_formula(queries: int) -> None:
    """Written out with packed matrices, as the published block is: the query among the keys if it is alone, else not."""
    model = gatherer(queries)
    tokens = model.cls_token.weight.expand(2, -1, -1)
    normed = F.layer_norm(torch.cat((tokens, PATCHES), 1), (12,), eps=1e-6)
    q, k, v = (F.linear(normed, matrix.weight) for matrix in (model.to_queries, model.to_keys, model.to_values))
    skipped = 0 if queries == 1 else queries
    weights = torch.exp(torch.einsum("bqd,bkd->bqk", q[:, :queries], k[:, skipped:]) / 12**0.5)
    weights = weights / weights.sum(-1, keepdim=True)
    found = tokens + 0.5 * model.projection(torch.einsum("bqk,bkd->bqd", weights, v[:, skipped:]))
    hidden = F.gelu(model.mlp.expand(F.layer_norm(found, (12,), eps=1e-6)))
    assert hidden.shape[-1] == 3 * 12
    with PatchMaps(model) as maps:
        torch.testing.assert_close(model(PATCHES), found + 0.5 * model.mlp.contract(hidden))
    torch.testing.assert_close(maps.value, weights[:, :, int(queries == 1) :])
    assert [matrix.bias for matrix in (model.to_queries, model.to_keys, model.to_values)] == [None] * 3


@torch.no_grad()
def test_constant_tokens_give_their_projected_mean() -> None:
    """Every patch weighs the same, so all that is gathered is the mean of the values, projected."""
    model = gatherer(5)
    constant = PATCHES[:, :1].expand(-1, 9, -1)
    gathered: list[torch.Tensor] = []
    model.projection.register_forward_hook(lambda *parts: gathered.append(parts[2]))
    with PatchMaps(model) as maps:
        model(constant)
    mean = F.layer_norm(constant.mean(1, keepdim=True), (12,), eps=1e-6)
    expected = model.projection(model.to_values(mean))
    torch.testing.assert_close(gathered[0], expected.expand(-1, 5, -1))
    torch.testing.assert_close(maps.value, torch.full((2, 5, 9), 1 / 9))


@torch.no_grad()
def test_the_class_token_of_the_encoder_is_left_out() -> None:
    model = mvd_ds.build_classifier(SETTINGS | {"cls_token": True}, 5, 4, 16, pooling="attention").eval()
    tokens = model.encoder(CLIP)
    changed = torch.cat((tokens[:, :1] + 1, tokens[:, 1:]), dim=1)
    assert torch.equal(model.pooling(tokens), model.pooling(changed))


@torch.no_grad()
def test_each_class_reads_its_own_query() -> None:
    """A change of one query moves the logit of its class alone."""
    pooling = {"kind": "attention", "queries": "class", "layer_scale": 1.0}
    model = mvd_ds.build_classifier(SETTINGS, 5, 4, 16, pooling=pooling).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    before = model(CLIP)
    model.pooling.attention.cls_token.weight[:, 3] = torch.randn(32, generator=torch.Generator().manual_seed(1))
    moved = (model(CLIP) - before).abs().amax(0)
    assert moved[3] > 1e-3 and moved[[0, 1, 2, 4]].max() == 0


def test_its_learned_queries_have_no_weight_decay() -> None:
    model = mvd_ds.build_classifier(SETTINGS, 5, 4, 16, pooling="attention")
    decayed = {
        id(p)
        for group in parameter_groups(model, mvd_ds.config.OptimizerSettings(base_lr=1e-3))
        if group["weight_decay"]
        for p in group["params"]
    }
    assert id(model.pooling.attention.cls_token.weight) not in decayed
    assert id(model.pooling.attention.to_queries.weight) in decayed


def test_frozen_features_cannot_be_pooled_by_it() -> None:
    encoder = mvd_ds.build_encoder(EncoderSettings.model_validate(SETTINGS), frames=4, size_px=16)
    with pytest.raises(ConfigError, match="pooling attention is learned: finetune trains it"):
        encoder_pooling(encoder, PoolingSettings(kind="attention"))
