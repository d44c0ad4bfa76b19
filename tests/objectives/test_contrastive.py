"""Losses over all pairs of a batch: the numbers of plain formulas, in rows, with gradients by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.objectives.contrastive import LARGEST_LOG_SCALE, matched_share, pair_loss


def vectors(clips: int = 7, masks: int = 2, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(clips, masks + 1, width, generator=generator)
    unit = functional.normalize(drawn, dim=-1)
    return unit[:, :masks], unit[:, masks]


def plain(kind: str, clips: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    losses = []
    for mask in range(clips.shape[1]):
        scores = scale[0].exp() * clips[:, mask] @ texts.T
        if kind == "softmax":
            rows, columns = (-table.log_softmax(dim=-1).diagonal().mean() for table in (scores, scores.T))
            losses.append((rows + columns) / 2)
        else:
            signs = 2 * torch.eye(len(texts)) - 1
            losses.append(-torch.log(torch.sigmoid(signs * (scores + scale[1]))).sum() / len(texts))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize(("kind", "scale"), [("softmax", [math.log(9.0)]), ("sigmoid", [math.log(5.0), -1.5])])
def test_loss_and_gradients_are_those_of_the_plain_formula(kind: str, scale: list[float], rows: int) -> None:
    inputs = [*vectors(), torch.tensor(scale)]
    leaves = [value.clone().requires_grad_() for value in inputs]
    expected = plain(kind, *leaves)
    wanted = torch.autograd.grad(expected, leaves)
    found = pair_loss(kind, *inputs, rows=rows)
    torch.testing.assert_close(found.loss, expected.detach(), rtol=1e-6, atol=1e-6)
    for gradient, other in zip(found[1:], wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def test_the_scale_stops_at_100_and_comes_back() -> None:
    """At the limit a gradient that would raise it is none; one that lowers it counts, so that it never is stuck."""
    clips, texts = vectors(masks=1)
    above, at = (pair_loss("softmax", clips, texts, torch.tensor([value])) for value in (7.0, LARGEST_LOG_SCALE))
    torch.testing.assert_close(above.loss, at.loss)
    assert above.scale > 0  # random pairs: a smaller factor would be better
    near = functional.normalize(1 + 0.05 * texts, dim=-1)  # so alike that a larger factor would be better
    below, limited = (pair_loss("softmax", near[:, None], near, torch.tensor([math.log(value)])) for value in (50.0, 100.0))
    assert below.scale < 0 and limited.scale == 0 and limited.loss > 0.1


def test_matched_pairs_are_counted() -> None:
    _, texts = vectors(6)
    assert matched_share(texts[:, None], texts) == 1
    assert matched_share(texts[[1, 0, 2, 3, 4, 5]][:, None], texts) == pytest.approx(4 / 6)
