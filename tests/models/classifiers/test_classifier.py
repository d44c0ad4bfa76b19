"""The classifier: what is pooled, what it starts from."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
from mvd_ds.models.classifiers.classifier import HEAD_SCALE

SETTINGS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}
CLIP = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cls_token", [False, True])
@torch.no_grad()
def test_patch_tokens_are_pooled_without_the_class_token(cls_token):
    model = mvd_ds.build_classifier(SETTINGS | {"cls_token": cls_token}, 5, 4, 16, norm_eps=1e-3).eval()
    tokens = model.encoder.embed(CLIP)
    for block in model.encoder.blocks:
        tokens = block(tokens)
    pooled = tokens[:, int(cls_token) :].mean(1)
    normed = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, keepdim=True, correction=0) + 1e-3).sqrt()
    torch.testing.assert_close(model(CLIP), normed @ model.head.weight.T)
    assert model(CLIP).shape == (2, 5)
    assert not any(name.startswith("encoder.norm") for name in model.state_dict())


def test_the_head_starts_small():
    head = mvd_ds.build_classifier(SETTINGS, 50, 4, 16).head
    assert 0.5 < head.weight.std() / (0.02 * HEAD_SCALE) < 1.5
    assert (head.bias == 0).all()


def test_dropout_acts_in_training_alone():
    model = mvd_ds.build_classifier(SETTINGS, 5, 4, 16, dropout=0.5)
    assert not torch.equal(model.train()(CLIP), model(CLIP))
    assert torch.equal(model.eval()(CLIP), model(CLIP))
