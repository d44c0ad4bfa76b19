"""Episodes of MetaPrompt: prompts of texts are moved by one half of the classes, and learn from what that did to the other half.

Source: MetaPrompt (TIP 2024), first order. Differs: gradients of episodes and of the three losses are taken at the same place and
make one step of the optimizer, where the published code takes one after the other; the move is plain gradient descent, theirs
goes through the momentum of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Episode(NamedTuple):
    """One half of the classes that moves prompts, and the other, which is asked."""

    moves: tuple[int, ...]
    """Numbers of its classes."""
    asks: tuple[int, ...]
    """Numbers of its classes."""


def draw_episodes(classes: Sequence[int], seed: Sequence[int]) -> list[Episode]:
    """Return both episodes of a step: two halves of the classes, drawn by ``seed``, each moves the prompts that the other asks.

    Of a half with a single class nothing can be asked, so its episode is left out.
    """
    order = np.random.default_rng(list(seed)).permutation(np.asarray(classes)).tolist()
    cut = (len(order) + 1) // 2
    halves = tuple(order[:cut]), tuple(order[cut:])
    return [Episode(halves[1 - asked], halves[asked]) for asked in (0, 1) if len(halves[asked]) > 1]


def part_loss(score: Callable[[Sequence[int]], Tensor], targets: Tensor, weights: Tensor, part: Sequence[int]) -> Tensor:
    """Return the sum of weighted cross entropies of the clips of some classes, among these alone.

    Args:
        score: classes -> (..., B, C) logits among them.
        targets: int64 (B,), numbers of classes.
        weights: (..., B), of which those of clips of other classes do not count.
        part: numbers of the classes.
    """
    places = torch.full((int(max(*part, int(targets.max()))) + 1,), -1, device=targets.device)
    places[list(part)] = torch.arange(len(part), device=targets.device)
    inside = places[targets]
    logits = score(part)
    lead = logits.shape[:-2]
    wanted = inside.clamp_min(0).expand(*lead, -1)
    losses = F.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten(), reduction="none").view(*lead, -1)
    return (losses * weights * (inside >= 0)).sum()
