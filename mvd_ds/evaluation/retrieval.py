"""Retrieval: how far down the list of all videos the one that a caption tells of stands, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

RECALL = (1, 5, 10)
"""Lengths of lists whose share of hits is told."""
CHUNK_ROWS = 1024
"""Queries whose scores are in memory at once."""


def unique_texts(captions: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """Return the different captions of S videos, T of them, and bool (S, T): which tell of which video.

    A text that several videos have is one, and finds any of them.
    """
    number: dict[str, int] = {}
    for own in captions:
        for text in own:
            number.setdefault(text, len(number))
    tells = torch.zeros(len(captions), len(number), dtype=torch.bool)
    for video, own in enumerate(captions):
        tells[video, [number[text] for text in own]] = True
    return list(number), tells


def retrieval(videos: Tensor, texts: Tensor, tells: Tensor) -> dict[str, Any]:
    """Return R@1, 5 and 10 and the median rank of the first right answer, from texts to videos and back, with R@k by chance.

    Each text is asked once, however many videos have it, and any of these is right; where many have, so is a guess: the share
    of hits of a list in random order, ``chance_r1`` and so on, stands beside.

    Args:
        videos: (S, E) unit vectors.
        texts: (T, E) unit vectors.
        tells: bool (S, T), which text tells of which video; none without a right answer.
    """
    return {
        "videos": len(videos),
        "texts": len(texts),
        "texts_of_several_videos": int((tells.sum(dim=0) > 1).sum()),
        "text_to_video": _figures(_ranks(texts, videos, tells.T), tells.T),
        "video_to_text": _figures(_ranks(videos, texts, tells), tells),
    }


def _ranks(queries: Tensor, answers: Tensor, right: Tensor) -> Tensor:
    """Return the place, from 1, of the best right answer of each query, behind answers that score as high or are no number."""
    ranks = []
    for rows in torch.arange(len(queries)).split(CHUNK_ROWS):
        scores = queries[rows] @ answers.mT
        best = scores.masked_fill(~right[rows], -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(1 + (~(scores < best) & ~right[rows]).sum(dim=1))
    return torch.cat(ranks)


def _figures(ranks: Tensor, right: Tensor) -> dict[str, float]:
    shares = {f"r{length}": float((ranks <= length).float().mean()) for length in RECALL}
    chance = {f"chance_r{length}": _chance(right, length) for length in RECALL}
    return {**shares, "median_rank": float(ranks.double().quantile(0.5)), **chance}


def _chance(right: Tensor, length: int) -> float:
    """Return the mean over queries of the chance that the first ``length`` answers in random order hold a right one."""
    answers = right.shape[1]
    wrong = answers - right.sum(dim=1).double()
    missed = torch.ones_like(wrong)
    for place in range(min(length, answers)):
        missed *= ((wrong - place) / (answers - place)).clamp(min=0)
    return float((1 - missed).mean())
