"""This module trains heads on frozen features: all blocks, learning rates, weight decays, seeds and labels in one pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mvd_ds.config import ProbeRecipe
from mvd_ds.evaluation.head_answers import Labelled, Outcome, answers_new, answers_of, choose, kept_heads, precision, probe_of
from mvd_ds.evaluation.head_bank import Candidate, Group, HeadBank
from mvd_ds.evaluation.probes import Probe, selection_split
from mvd_ds.evaluation.token_store import Share, in_groups


class Keeper(Protocol):
    """The place where heads in training are kept, so that an interrupted training goes on."""

    def begin(self) -> int:
        """Return the step after which training goes on; 0: from the start. Collective."""

    def load(self, number: int) -> dict[str, Any]:
        """Return the state of a bank of heads at that step."""

    def save(self, step: int, states: dict[int, dict[str, Any]]) -> None:
        """Keep this process's states after a step. Collective."""


class ClassHalves(NamedTuple):
    """The classes of a label that heads are fitted on, and the others, which they are asked for."""

    base: tuple[int, ...]
    """Numbers of the classes that are learnt."""
    new: tuple[int, ...]
    """Numbers of the others."""


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
    halves: ClassHalves | None = None
    """The classes that are learnt and those that are asked for beside them, of a single label (None: all are learnt)."""
    keeps_heads: bool = False
    """Whether probes come with the parameters of their heads."""
    known_views: int = 1
    """Views of a training clip, each of which heads learn from, and whose softmaxes are averaged to choose."""


def train_heads(
    build: Callable[[int, int], nn.Module],
    known: Labelled,
    unseen: Labelled,
    recipe: ProbeRecipe,
    device: torch.device,
    training: Training = Training(),  # noqa: B008 - a NamedTuple, never written to
) -> list[tuple[Probe | None, ...]]:
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
        For each block, a probe for each label. With ``training.halves`` there is one label, and two probes: of base classes, and
        of new ones or None where heads have no answer for these.

    Raises:
        ConfigError: if all heads of a label diverged.
    """
    share, labels = training.share, range(known.labels.shape[1])
    classes = [int(max(known.labels[:, label].max(), unseen.labels[:, label].max())) + 1 for label in labels]
    listed = _banks(recipe, training.blocks, len(classes))

    halves = training.halves

    def bank(candidates: list[Candidate]) -> HeadBank:
        count = classes[candidates[0].label]
        learnt = halves and halves.base
        return HeadBank(candidates, lambda seed: build(count, recipe.seeds[seed]), device, recipe.head.optimizer, learnt)

    own = {number: bank(listed[number]) for number in range(share.rank, len(listed), share.world)}
    splits = np.stack([_split(known, recipe, seed) for seed in recipe.seeds])
    if halves is not None:
        splits &= np.isin(known.labels[:, 0], halves.base)
    _train(own, known, splits, recipe, device, training, classes)
    parts = [None] if halves is None else [halves.base, halves.new]
    found = _outcomes(own, known, unseen, splits, recipe, training, parts)
    everyone = {number: told for gathered in share.gather(found) for number, told in gathered.items()}
    candidates = [one for bank in listed for one in bank]
    outcomes = [told for number in range(len(listed)) for told in everyone[number]]

    def probed(block: int, label: int) -> list[Probe | None]:
        chosen = choose(candidates, (block, label), splits, outcomes, known.labels[:, label], recipe)
        told = enumerate(parts)
        return [probe_of(candidates, outcomes, chosen, n, unseen.labels[:, label], _rows(unseen, part)) for n, part in told]

    return [tuple(probe for label in labels for probe in probed(block, label)) for block in range(training.blocks)]


def _outcomes(
    own: dict[int, HeadBank],
    known: Labelled,
    unseen: Labelled,
    splits: np.ndarray,
    recipe: ProbeRecipe,
    training: Training,
    parts: Sequence[tuple[int, ...] | None],
) -> dict[int, list[Outcome]]:
    """Return what every head answers to the clips that choose and, for each part of the classes, to those held out."""
    to_known = answers_of(own, known, np.flatnonzero(splits.any(axis=0)).tolist(), recipe, training.known_views, parts[0])
    to_unseen = []
    for part in parts:
        asked = {number: bank for number, bank in own.items() if part == parts[0] or answers_new(bank)}
        to_unseen.append(answers_of(asked, unseen, np.flatnonzero(_rows(unseen, part)).tolist(), recipe, training.views, part))
    return {
        number: [
            Outcome(to_known[number][row], [part[number][row] if number in part else None for part in to_unseen], *facts)
            for row, facts in enumerate(zip(bank.finite(), kept_heads(bank, training.keeps_heads), strict=True))
        ]
        for number, bank in own.items()
    }


def _rows(unseen: Labelled, part: tuple[int, ...] | None) -> np.ndarray:
    """Return which clips are of some classes of a single label, bool (S,); None: all are."""
    return np.ones(len(unseen.labels), bool) if part is None else np.isin(unseen.labels[:, 0], part)


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
    banks: dict[int, HeadBank],
    known: Labelled,
    splits: np.ndarray,
    recipe: ProbeRecipe,
    device: torch.device,
    training: Training,
    classes: list[int],
) -> None:
    """Step every head on every batch; a head's loss leaves out the clips that choose among its kind, and those of new classes."""
    settings, every, keeper = recipe.head, recipe.run.save_every_steps, training.keeper
    count, targets = len(known.labels), torch.from_numpy(known.labels).to(device)
    learnt = np.ones(count, bool) if training.halves is None else np.isin(known.labels[:, 0], training.halves.base)
    learns = torch.from_numpy(~splits & learnt)
    places = _places(training.halves, targets)
    pool = np.flatnonzero(learnt)
    per_epoch = math.ceil(len(pool) / settings.batch)
    steps = per_epoch * settings.epochs
    first = keeper.begin() if keeper is not None else 0
    if keeper is not None and first:
        for number, bank in banks.items():
            bank.load_state_dict(keeper.load(number))
    for epoch in range(first // per_epoch, settings.epochs):
        plan = list(_plan(pool, epoch, recipe, known.features.size))[max(first - epoch * per_epoch, 0) :]
        batches = known.batches([group for batch in plan for group in batch], epoch)
        for done, batch in enumerate(plan, max(first, epoch * per_epoch)):
            counts = learns[:, [clip for group in batch for clip in group]].sum(1)
            groups: dict[int, list[Group]] = {number: [] for number, bank in banks.items() if bank.has_episodes}
            for clips, frozen in itertools.islice(batches, len(batch)):
                for (number, bank), view in itertools.product(banks.items(), range(training.known_views)):
                    rows, seen = [one.seed for one in bank.candidates], frozen.seen(bank.block, view)
                    weights = (learns[:, clips] / counts.clamp_min(1)[:, None])[rows].to(device) / training.known_views
                    with precision(recipe, device):
                        bank.accumulate(seen, places[clips, bank.label], weights)
                    if number in groups:
                        groups[number].append(Group(seen, targets[clips, bank.label], learns[:, clips][rows].to(device)))
            factor = 0.5 * (1 + math.cos(math.pi * done / steps))
            for number, bank in banks.items():
                with precision(recipe, device):
                    if number in groups:
                        key = (recipe.run.seed, done)
                        bank.episodes(groups[number], classes[bank.label], key, recipe.prompt, factor)
                bank.step(factor, [bool(counts[one.seed]) for one in bank.candidates])
            training.on_progress(done + 1, steps)
            if keeper is not None and ((done + 1) % every == 0 or done + 1 == steps):
                keeper.save(done + 1, {number: bank.state_dict() for number, bank in banks.items()})


def _places(halves: ClassHalves | None, targets: Tensor) -> Tensor:
    """Return the place of each target among the classes that are learnt; of others, which have no weight, the first."""
    if halves is None:
        return targets
    table = torch.zeros(int(targets.max()) + 1 + max(halves.base), dtype=torch.int64, device=targets.device)
    table[list(halves.base)] = torch.arange(len(halves.base), device=targets.device)
    return table[targets]


def _plan(clips: np.ndarray, epoch: int, recipe: ProbeRecipe, size: int) -> Iterator[list[Sequence[int]]]:
    """Yield the batches of an epoch, each in the groups that are computed at once."""
    order = np.random.default_rng([recipe.run.seed, epoch]).permutation(clips).tolist()
    for batch in in_groups(order, recipe.head.batch):
        yield in_groups(batch, size)
