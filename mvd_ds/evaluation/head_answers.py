"""This module asks trained heads for their answers, and chooses one for each seed by clips that taught it nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.head_bank import Candidate, HeadBank
from mvd_ds.evaluation.probes import Probe
from mvd_ds.evaluation.token_store import FrozenStore, in_groups
from mvd_ds.models.prompts.head import PromptHead


class Labelled(NamedTuple):
    """Clips with their labels."""

    features: FrozenStore
    labels: np.ndarray
    """int64 (S, L)."""
    drawn: int = 0
    """Number of drawn views of each clip, which stand behind the plain one in ``features``."""
    rows_per_clip: int = 1
    """Neighbouring clips that are one clip, played in several ways."""

    def batches(self, groups: Sequence[Sequence[int]], epoch: int | None = None) -> Iterator[tuple[Sequence[int], Any]]:
        """Yield (clips, features) of each group: those of the view of an epoch, or of the plain one (None)."""
        view = 0 if epoch is None or not self.drawn else 1 + epoch % self.drawn
        rows = [[clip * (self.drawn + 1) + view for clip in group] for group in groups]
        for group, (_, frozen) in zip(groups, self.features.batches(rows), strict=True):
            yield group, frozen


class Answers(NamedTuple):
    """The answers of one head to S clips."""

    classes: np.ndarray
    """int64 (S,), the likeliest class, -1 where scores are not finite or the clip was not asked for."""
    shares: np.ndarray
    """float32 (S,), its probability."""


class Outcome(NamedTuple):
    """The answers of one head, and what it is."""

    known: Answers
    """To the training clips that choose."""
    unseen: list[Answers | None]
    """To the held-out clips, for each part of the classes; None: it has no answer."""
    is_finite: bool
    """True if all of its parameters are."""
    state: dict[str, Tensor] | None
    """Its parameters, where they are kept."""


def answers_new(bank: HeadBank) -> bool:
    """Return whether heads can tell classes apart that they have not learnt."""
    head = bank.heads[0]
    return isinstance(head, PromptHead) and head.answers_new


def kept_heads(bank: HeadBank, keeps: bool) -> list[dict[str, Tensor] | None]:
    """Return the parameters of every head of a bank, on the CPU; None where they are not kept."""
    if not keeps:
        return [None] * len(bank.heads)
    return [{name: value.detach().cpu().clone() for name, value in head.named_parameters()} for head in bank.heads]


def precision(recipe: ProbeRecipe, device: torch.device) -> torch.autocast:
    """Return the context in which heads compute."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


@torch.inference_mode()
def answers_of(
    banks: dict[int, HeadBank],
    asked: Labelled,
    clips: list[int],
    recipe: ProbeRecipe,
    views: int,
    among: tuple[int, ...] | None,
) -> dict[int, list[Answers]]:
    """Return the answers of every head to ``clips``, by the place of each among all of them."""
    count = len(asked.labels)
    found = {
        number: [Answers(np.full(count, -1), np.zeros(count, np.float32)) for _ in bank.candidates]
        for number, bank in banks.items()
    }
    for group, frozen in asked.batches(in_groups(clips, asked.features.size)):
        for number, bank in banks.items():
            with precision(recipe, next(bank.heads[0].parameters()).device):
                scores = [bank.logits(frozen.seen(bank.block, view), among).softmax(-1) for view in range(views)]
            shares, classes = _best(torch.stack(scores).mean(0), among)
            for row, one in enumerate(found[number]):
                one.classes[list(group)], one.shares[list(group)] = classes[row], shares[row]
    return found


def _best(scores: Tensor, among: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability (heads, B) and the number of the likeliest class, -1 where a score is not finite."""
    shares, classes = scores.max(-1)
    finite = scores.isfinite().all(-1)
    if among is not None:
        classes = torch.tensor(among, device=classes.device)[classes]
    return torch.where(finite, shares, 0.0).cpu().numpy(), torch.where(finite, classes, -1).cpu().numpy()


def choose(
    candidates: list[Candidate],
    place: tuple[int, int],
    splits: np.ndarray,
    outcomes: Sequence[Outcome],
    known: np.ndarray,
    recipe: ProbeRecipe,
) -> list[int]:
    """Return the best candidate of each seed for a (block, label); of equals, smallest rate, then least decay."""
    best = []
    for seed, split in enumerate(splits):
        mine = [row for row, one in enumerate(candidates) if (one.block, one.label, one.seed) == (*place, seed)]
        mine.sort(key=lambda row: (candidates[row].rate, candidates[row].decay))
        chosen = np.flatnonzero(split)
        row = max(mine, key=lambda row: (outcomes[row].is_finite, _right(outcomes[row].known.classes[chosen], known[chosen])))
        if not outcomes[row].is_finite:
            raise ConfigError(f"head.learning_rates {recipe.head.learning_rates}: every head diverged; choose smaller ones")
        best.append(row)
    return best


def _right(answers: np.ndarray, labels: np.ndarray) -> float:
    return float((answers == labels).mean()) if len(labels) else 0.0


def probe_of(
    candidates: list[Candidate],
    outcomes: Sequence[Outcome],
    best: list[int],
    part: int,
    unseen: np.ndarray,
    wanted: np.ndarray,
) -> Probe | None:
    """Return the probe of the candidates that were chosen, on a part of the held-out clips; None if they have no answer."""
    told = [answers for row in best if (answers := outcomes[row].unseen[part]) is not None]
    if len(told) < len(best):
        return None
    correct = np.stack([one.classes[wanted] == unseen[wanted] for one in told])
    return Probe(
        float(correct.mean()),
        tuple(correct.mean(1).tolist()),
        tuple(candidates[row].rate for row in best),
        correct,
        tuple(candidates[row].decay for row in best),
        np.stack([one.classes[wanted] for one in told]),
        np.stack([one.shares[wanted] for one in told]),
        None if wanted.all() else np.flatnonzero(wanted),
        tuple(outcomes[row].state for row in best),
    )
