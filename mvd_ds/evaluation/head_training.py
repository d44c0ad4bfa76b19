"""This module trains heads on frozen features: all blocks, learning rates, weight decays, seeds and labels in one pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.head_bank import Candidate, HeadBank
from mvd_ds.evaluation.probes import Probe, selection_split
from mvd_ds.evaluation.token_store import FrozenStore, Share, in_groups


class Keeper(Protocol):
    """The place where heads in training are kept, so that an interrupted training goes on."""

    def begin(self) -> int:
        """Return the step after which training goes on; 0: from the start. Collective."""

    def load(self, number: int) -> dict[str, Any]:
        """Return the state of a bank of heads at that step."""

    def save(self, step: int, states: dict[int, dict[str, Any]]) -> None:
        """Keep this process's states after a step. Collective."""


class Answers(NamedTuple):
    """The answers of one head to S clips."""

    classes: np.ndarray
    """int64 (S,), the likeliest class, -1 where scores are not finite or the clip was not asked for."""
    shares: np.ndarray
    """float32 (S,), its probability."""


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


class Training(NamedTuple):
    """The surroundings of a training, beside the settings of the recipe."""

    blocks: int = 1
    """Number of blocks whose features there are."""
    views: int = 1
    """Views of a held-out clip, whose softmaxes are averaged."""
    share: Share = Share()
    """This process among the others."""
    keeper: Keeper | None = None
    """Place of interrupted trainings; None: they begin anew."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with (steps done, steps in all)."""


def train_heads(
    build: Callable[[int, int], nn.Module],
    known: Labelled,
    unseen: Labelled,
    recipe: ProbeRecipe,
    device: torch.device,
    training: Training = Training(),  # noqa: B008 - a NamedTuple, never written to
) -> list[tuple[Probe, ...]]:
    """Train a probe for every block and label; each seed takes the rate and weight decay that are best on its selection share.

    Unlike a linear probe, the head that is chosen is the one that was measured: it is not trained again on all clips. Heads are
    dealt out to the processes in banks, which no number of processes changes, and every process sees all features.

    Args:
        build: (classes, seed) -> a head with its initial weights.
        known: the training clips.
        unseen: the held-out clips.
        recipe: seeds, selection share and training.
        device: device of the heads.
        training: blocks, views, processes and where the training is kept.

    Returns:
        For each block, a probe for each label.

    Raises:
        ConfigError: if all heads of a label diverged.
    """
    share, labels = training.share, range(known.labels.shape[1])
    classes = [int(max(known.labels[:, label].max(), unseen.labels[:, label].max())) + 1 for label in labels]
    listed = _banks(recipe, training.blocks, len(classes))

    def bank(candidates: list[Candidate]) -> HeadBank:
        return HeadBank(candidates, lambda seed: build(classes[candidates[0].label], recipe.seeds[seed]), device)

    own = {number: bank(listed[number]) for number in range(share.rank, len(listed), share.world)}
    splits = np.stack([_split(known, recipe, seed) for seed in recipe.seeds])
    _train(own, known, splits, recipe, device, training)
    to_known = _asked(own, known, np.flatnonzero(splits.any(axis=0)).tolist(), len(known.labels), recipe, 1)
    to_unseen = _asked(own, unseen, list(range(len(unseen.labels))), len(unseen.labels), recipe, training.views)
    found = {number: list(zip(to_known[number], to_unseen[number], own[number].finite(), strict=True)) for number in own}
    everyone = {number: told for part in share.gather(found) for number, told in part.items()}
    candidates = [one for bank in listed for one in bank]
    answers = [told for number in range(len(listed)) for told in everyone[number]]
    return [
        tuple(
            _choose(candidates, (block, label), splits, answers, known.labels[:, label], unseen.labels[:, label], recipe)
            for label in labels
        )
        for block in range(training.blocks)
    ]


def _split(known: Labelled, recipe: ProbeRecipe, seed: int) -> np.ndarray:
    return selection_split(len(known.labels), recipe.selection_share, seed, known.rows_per_clip)[0]


def _banks(recipe: ProbeRecipe, blocks: int, labels: int) -> list[list[Candidate]]:
    """Return all candidates in banks of at most ``head.together``."""
    banks: list[list[Candidate]] = []
    for block, label in itertools.product(range(blocks), range(labels)):
        grid = itertools.product(range(len(recipe.seeds)), recipe.head.learning_rates, recipe.head.weight_decays)
        mine = [Candidate(block, label, *one) for one in grid]
        banks += [list(part) for part in in_groups(mine, recipe.head.together)]  # type: ignore[arg-type]
    return banks


def _train(
    banks: dict[int, HeadBank], known: Labelled, splits: np.ndarray, recipe: ProbeRecipe, device: torch.device, training: Training
) -> None:
    """Step every head on every batch; a head's loss leaves out the clips that choose among its kind."""
    settings, every, keeper = recipe.head, recipe.run.save_every_steps, training.keeper
    count, targets, learns = len(known.labels), torch.from_numpy(known.labels).to(device), torch.from_numpy(~splits)
    per_epoch = math.ceil(count / settings.batch)
    steps = per_epoch * settings.epochs
    first = keeper.begin() if keeper is not None else 0
    if keeper is not None and first:
        for number, bank in banks.items():
            bank.load_state_dict(keeper.load(number))
    for epoch in range(first // per_epoch, settings.epochs):
        plan = list(_plan(count, epoch, recipe, known.features.size))[max(first - epoch * per_epoch, 0) :]
        batches = known.batches([group for batch in plan for group in batch], epoch)
        for done, batch in enumerate(plan, max(first, epoch * per_epoch)):
            counts = learns[:, [clip for group in batch for clip in group]].sum(1)
            for clips, frozen in itertools.islice(batches, len(batch)):
                for bank in banks.values():
                    rows = [one.seed for one in bank.candidates]
                    weights = (learns[:, clips] / counts.clamp_min(1)[:, None])[rows].to(device)
                    with _precision(recipe, device):
                        bank.accumulate(frozen.seen(bank.block, 0), targets[clips, bank.label], weights)
            for bank in banks.values():
                factor = 0.5 * (1 + math.cos(math.pi * done / steps))
                bank.step(factor, [bool(counts[one.seed]) for one in bank.candidates])
            training.on_progress(done + 1, steps)
            if keeper is not None and ((done + 1) % every == 0 or done + 1 == steps):
                keeper.save(done + 1, {number: bank.state_dict() for number, bank in banks.items()})


def _plan(clips: int, epoch: int, recipe: ProbeRecipe, size: int) -> Iterator[list[Sequence[int]]]:
    """Yield the batches of an epoch, each in the groups that are computed at once."""
    order = np.random.default_rng([recipe.run.seed, epoch]).permutation(clips).tolist()
    for batch in in_groups(order, recipe.head.batch):
        yield in_groups(batch, size)


def _precision(recipe: ProbeRecipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


@torch.inference_mode()
def _asked(
    banks: dict[int, HeadBank], asked: Labelled, clips: list[int], count: int, recipe: ProbeRecipe, views: int
) -> dict[int, list[Answers]]:
    """Return the answers of every head to ``clips``, by the place of each among ``count``."""
    found = {
        number: [Answers(np.full(count, -1), np.zeros(count, np.float32)) for _ in bank.candidates]
        for number, bank in banks.items()
    }
    for group, frozen in asked.batches(in_groups(clips, asked.features.size)):
        for number, bank in banks.items():
            with _precision(recipe, next(bank.heads[0].parameters()).device):
                scores = [bank.logits(frozen.seen(bank.block, view)).softmax(-1) for view in range(views)]
            shares, classes = _best(torch.stack(scores).mean(0))
            for row, one in enumerate(found[number]):
                one.classes[list(group)], one.shares[list(group)] = classes[row], shares[row]
    return found


def _best(scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability (heads, B) and the number of the likeliest class, -1 where a score is not finite."""
    shares, classes = scores.max(-1)
    finite = scores.isfinite().all(-1)
    return torch.where(finite, shares, 0.0).cpu().numpy(), torch.where(finite, classes, -1).cpu().numpy()


def _choose(
    candidates: list[Candidate],
    place: tuple[int, int],
    splits: np.ndarray,
    answers: list[tuple[Answers, Answers, bool]],
    known: np.ndarray,
    unseen: np.ndarray,
    recipe: ProbeRecipe,
) -> Probe:
    """Return the probe of a (block, label) with the best candidate of each seed; of equals, smallest rate, then least decay."""
    best = []
    for seed, split in enumerate(splits):
        mine = [row for row, one in enumerate(candidates) if (one.block, one.label, one.seed) == (*place, seed)]
        mine.sort(key=lambda row: (candidates[row].rate, candidates[row].decay))
        chosen = np.flatnonzero(split)
        row = max(mine, key=lambda row: (answers[row][2], (answers[row][0].classes[chosen] == known[chosen]).mean()))
        if not answers[row][2]:
            raise ConfigError(f"head.learning_rates {recipe.head.learning_rates}: every head diverged; choose smaller ones")
        best.append(row)
    told = [answers[row][1] for row in best]
    correct = np.stack([one.classes == unseen for one in told])
    return Probe(
        float(correct.mean()),
        tuple(correct.mean(1).tolist()),
        tuple(candidates[row].rate for row in best),
        correct,
        tuple(candidates[row].decay for row in best),
        np.stack([one.classes for one in told]),
        np.stack([one.shares for one in told]),
    )
