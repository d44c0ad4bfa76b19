"""The class head beside masked prediction against torch's own modules, and what unlabelled rows change."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mvd_ds.config import DecoderSettings, EncoderSettings, HeadShape
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.readouts.label_head import LabelHead, LabelledBatchNorm

ROWS, TOKENS, WIDTH = 6, 5, 8
#: Places of tokens, which a class head does not look at.
NONE = torch.zeros(ROWS, 0, dtype=torch.int64)


def tokens() -> torch.Tensor:
    return torch.randn(ROWS, 1 + TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


def label_head(norm: Literal["batch", "layer"], cls_token: bool) -> LabelHead:
    """A head of 3 classes and 16 hidden channels on tokens of 8."""
    encoder = EncoderSettings(embed_dim=WIDTH, depth=1, num_heads=1, position="learned", cls_token=cls_token)
    shape = HeadShape(3, DecoderSettings(depth=0, hidden=16), "summary", norm)
    return initialise(LabelHead(shape, encoder, (1, 1, TOKENS)), seed=0)


def test_batch_norm_is_torchs_and_leaves_unlabelled_rows_out() -> None:
    """Statistics of the first four rows; a row without a label is normed by them and changes none."""
    rows, norm = tokens()[:, 0] * 3 + 1, LabelledBatchNorm(WIDTH)
    nn.init.normal_(norm.weight)
    expected = F.batch_norm(rows, None, None, norm.weight, norm.bias, training=True)
    torch.testing.assert_close(norm(rows), expected)
    labelled = torch.tensor([True] * 4 + [False] * 2)
    expected = F.batch_norm(rows[:4], None, None, norm.weight, norm.bias, training=True)
    torch.testing.assert_close(norm(rows, labelled)[:4], expected)
    assert torch.isfinite(norm(rows, ~(labelled | True))).all()


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_head_is_the_published_branch(norm: Any) -> None:
    """Mean of the patch tokens without the class token, Linear, norm, ReLU, Linear."""
    head = label_head(norm, cls_token=True)
    hidden = F.linear(tokens()[:, 1:].mean(1), head.expand.weight, head.expand.bias)
    kinds = {"batch": nn.BatchNorm1d(16, track_running_stats=False), "layer": nn.LayerNorm(16, eps=1e-6)}
    expected = F.linear(kinds[norm](hidden).relu(), head.head.weight, head.head.bias)
    torch.testing.assert_close(head(tokens(), NONE, NONE), expected)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_rows_without_a_label_get_no_gradient_from_those_with_one(norm: Any) -> None:
    encoded = tokens().requires_grad_()
    labelled = torch.tensor([True, False, True, True, False, True])
    head = label_head(norm, cls_token=False)
    head(encoded, NONE, NONE, labelled=labelled)[labelled].square().sum().backward()
    assert encoded.grad is not None
    assert encoded.grad[~labelled].abs().max() == 0 and encoded.grad[labelled].abs().amin(dim=(1, 2)).min() > 0
