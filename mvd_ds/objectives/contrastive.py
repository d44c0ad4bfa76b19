"""Losses between the vectors of clips and those of captions, over all pairs of a batch, and their gradients by the vectors.

A batch may be larger than what is in memory at once: whoever computes vectors in parts takes the gradients from here and gives
each part its own. Scores are computed some rows at a time, so that memory grows with the batch and not with its square.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: Rows of scores that are computed at once: 128 MiB for a batch of 32,768.
CHUNK_ROWS = 1024
#: Largest logarithm of the factor of cosines. Source: CLIP, ln 100.
LARGEST_LOG_SCALE = math.log(100.0)


class PairLoss(NamedTuple):
    """A loss over all pairs, and its gradients."""

    loss: Tensor
    """Scalar fp32."""
    clips: Tensor
    """(G, K, E), by the vectors of clips."""
    texts: Tensor
    """(G, E), by the vectors of captions."""
    scale: Tensor
    """By the scale, and by the bias if there is one."""


def pair_loss(kind: str, clips: Tensor, texts: Tensor, scale: Tensor, rows: int = CHUNK_ROWS) -> PairLoss:
    """Return the loss between clips and captions that belong together by their number, and its gradients.

    Source: CLIP, the mean of the cross entropies over rows and over columns; SigLIP, -log sigmoid of every pair, signed, summed
    over the captions of a clip. Several masks of a clip are as many losses, of which this is the mean.

    Args:
        kind: ``softmax`` or ``sigmoid``.
        clips: (G, K, E) unit vectors, fp32.
        texts: (G, E) unit vectors, fp32.
        scale: (1,) logarithm of the factor, or (2,) that and the bias. Above ln 100 it counts as that, and the gradient that
            would raise it further is zero.
        rows: rows of scores that are computed at once.
    """
    leaves = [value.detach().clone().requires_grad_() for value in (clips, texts, scale)]
    of_clips, of_texts, of_scale = leaves
    total = texts.new_zeros(())
    part = {"softmax": _softmax_rows, "sigmoid": _sigmoid_rows}[kind]
    with torch.enable_grad():
        for mask in range(clips.shape[1]):
            for first in range(0, len(texts), rows):
                chosen = slice(first, first + rows)
                factor = of_scale[0] + (of_scale[0].clamp(max=LARGEST_LOG_SCALE) - of_scale[0]).detach()
                bias = of_scale[1] if len(of_scale) > 1 else None
                loss = part(of_clips[:, mask], of_texts, factor.exp(), bias, chosen) / (len(texts) * clips.shape[1])
                loss.backward()
                total = total + loss.detach()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    is_stuck = (scale.detach()[:1] >= LARGEST_LOG_SCALE) & (gradients[2][:1] < 0)
    by_scale = torch.cat((torch.where(is_stuck, 0.0, gradients[2][:1]), gradients[2][1:]))
    return PairLoss(total, gradients[0], gradients[1], by_scale)


def _softmax_rows(clips: Tensor, texts: Tensor, factor: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
    """Return the sum of the losses of some clips among all captions, and of these captions among all clips."""
    right = torch.arange(len(texts), device=texts.device)[rows]
    by_clip = functional.cross_entropy(factor * clips[rows] @ texts.mT, right, reduction="sum")
    by_text = functional.cross_entropy(factor * texts[rows] @ clips.mT, right, reduction="sum")
    return (by_clip + by_text) / 2


def _sigmoid_rows(clips: Tensor, texts: Tensor, factor: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
    """Return the sum over some clips and all captions of -log sigmoid, signed by whether the two belong together."""
    scores = factor * clips[rows] @ texts.mT
    if bias is not None:
        scores = scores + bias
    places = torch.arange(len(texts), device=texts.device)
    signs = torch.where(places[rows, None] == places, 1.0, -1.0)
    return -functional.logsigmoid(signs * scores).sum()


@torch.no_grad()
def matched_share(clips: Tensor, texts: Tensor) -> Tensor:
    """Return the share of clips, under their first mask, whose nearest caption of the batch is their own, fp32."""
    places = torch.arange(len(texts), device=texts.device)
    found = [(clips[rows, 0] @ texts.mT).argmax(dim=1) for rows in places.split(CHUNK_ROWS)]
    return (torch.cat(found) == places).float().mean()
