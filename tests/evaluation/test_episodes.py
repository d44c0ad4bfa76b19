"""The gradient of an episode on a head whose gradient is known, and the halves that are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mvd_ds.config import PromptSettings
from mvd_ds.evaluation.episodes import draw_episodes
from mvd_ds.evaluation.head_bank import Candidate, Group, HeadBank
from mvd_ds.models.prompts.head import PromptHead, PromptInput, Stage

WIDTH, CLASSES, SEED = 3, 4, (0, 7)


class Softmax(PromptHead):
    """Softmax regression: the prompts of texts are the texts' vectors themselves."""

    has_episodes: ClassVar[bool] = True

    def __init__(self, start: Tensor) -> None:
        nn.Module.__init__(self)
        self.text = nn.ParameterList([start.clone()])

    def forward(self, seen: PromptInput, classes: Sequence[int] | None = None, stage: Stage = "answer") -> Tensor:
        assert seen.vectors is not None
        logits = (seen.vectors @ self.text[0].mT)[:, list(range(CLASSES) if classes is None else classes)]
        return logits if stage == "answer" else logits[None]


def slope(weights: np.ndarray, clips: np.ndarray, labels: np.ndarray, part: Sequence[int]) -> np.ndarray:
    """The gradient of the mean cross entropy of the clips of ``part`` among ``part``: (softmax - one hot) x clip."""
    found, rows = np.zeros_like(weights), [row for row, label in enumerate(labels) if label in part]
    for row in rows:
        scores = np.exp(weights[list(part)] @ clips[row])
        errors = scores / scores.sum() - (np.array(part) == labels[row])
        found[list(part)] += errors[:, None] * clips[row] / len(rows)
    return found


def test_one_step_of_both_episodes_is_that_of_hand() -> None:
    rng = np.random.default_rng(0)
    clips, labels = rng.normal(size=(8, WIDTH)), np.array([0, 1, 2, 3, 0, 1, 2, 3])
    starts, learns = [rng.normal(size=(CLASSES, WIDTH)) for _ in range(2)], np.ones((2, 8), bool)
    learns[1, :2] = False
    settings = PromptSettings(meta_step=0.3, inner_rate=0.5)
    candidates = [Candidate(0, 0, place, 0.1, 0.0) for place in (0, 1)]
    bank = HeadBank(candidates, lambda seed: Softmax(torch.from_numpy(starts[seed])), torch.device("cpu"), "sgd")
    halves = [slice(0, 5), slice(5, 8)]  # a step may come in several groups
    groups = [
        Group(PromptInput(torch.from_numpy(clips[part])), torch.from_numpy(labels[part]), torch.from_numpy(learns[:, part]))
        for part in halves
    ]
    bank.episodes(groups, CLASSES, SEED, settings, factor=1.0)
    for head, start, mine in zip(bank.heads, starts, learns, strict=True):
        wanted = np.zeros_like(start)
        for moves, asks in draw_episodes(range(CLASSES), SEED):
            moved = start - 0.5 * slope(start, clips[mine], labels[mine], moves)
            wanted += 0.3 * slope(moved, clips[mine], labels[mine], asks)  # first order: the move itself has no gradient
        np.testing.assert_allclose(_grad(head), wanted, rtol=1e-5, atol=1e-7)


def _grad(head: Any) -> np.ndarray:
    return head.text[0].grad.numpy()


def test_no_step_of_meta_and_heads_that_saw_one_half_learn_nothing() -> None:
    start, one = torch.randn(CLASSES, WIDTH, dtype=torch.float64), Candidate(0, 0, 0, 0.1, 0.0)
    episode = draw_episodes(range(CLASSES), SEED)[0]
    labels = torch.tensor([episode.asks[0]] * 3)
    group = Group(PromptInput(torch.randn(3, WIDTH, dtype=torch.float64)), labels, torch.ones(1, 3, dtype=torch.bool))
    for settings in (PromptSettings(meta_step=0.0), PromptSettings()):
        bank = HeadBank([one], lambda seed: Softmax(start), torch.device("cpu"))
        bank.episodes([group], CLASSES, SEED, settings, 1.0)
        grad = bank.heads[0].text[0].grad  # type: ignore[union-attr,index]
        assert grad is None or not grad.any()


def test_halves_are_drawn_by_the_step_and_a_half_of_one_class_asks_nothing() -> None:
    drawn = [draw_episodes(range(5), (0, step)) for step in range(20)]
    assert len({tuple(sorted(episodes[0].asks)) for episodes in drawn}) > 3
    for first, second in drawn:
        assert first.moves == second.asks and set(first.moves) | set(first.asks) == set(range(5))
    assert [len(one.asks) for one in draw_episodes((3, 5, 8), (0, 0))] == [2]
    assert drawn[3] == draw_episodes(range(5), (0, 3))
