"""This module trains heads on frozen features: every learning rate, seed and label in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.probes import Probe, selection_split

Frozen = Any
"""A NamedTuple of tensors (B, ...) or None: what a head takes."""
Maker = Callable[[Sequence[Sequence[int]]], Iterable[tuple[Sequence[int], Frozen]]]
"""Groups of clips -> the clips of each that can be read, and their features."""


class FrozenStore:
    """A cache of features by clip: it keeps them if all of them fit into memory, and computes them again otherwise.

    Args:
        make: function that computes features, group by group.
        clips: number of clips.
        keep_bytes: largest size of the cache in host memory.
    """

    def __init__(self, make: Maker, clips: int, keep_bytes: float) -> None:
        self._make, self._clips, self._keep_bytes = make, clips, keep_bytes
        self._kept: dict[int, Frozen] = {}
        self._keeps: bool | None = None

    def batches(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Frozen]]:
        """Yield (clips, features) of each group."""
        missing = [group for group in groups if any(clip not in self._kept for clip in group)]
        if not missing:
            for group in groups:
                yield group, _stack([self._kept[clip] for clip in group])
            return
        for group, features in self._make(groups):
            if self._keeps is None and len(group):
                size = sum(part.numel() * part.element_size() for part in features if part is not None) / len(group)
                self._keeps = size * self._clips <= self._keep_bytes
            if self._keeps:
                for row, clip in enumerate(group):
                    self._kept[clip] = type(features)(*(part if part is None else part[row].cpu() for part in features))
            yield group, features


class Candidate(NamedTuple):
    """One head in training."""

    head: nn.Module
    rate: float
    seed: int
    """Position among the seeds."""
    label: int
    """Column of the labels."""


def train_heads(
    build: Callable[[int, int], nn.Module],
    known: FrozenStore,
    known_labels: np.ndarray,
    unseen: FrozenStore,
    unseen_labels: np.ndarray,
    recipe: ProbeRecipe,
    device: torch.device,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Probe, ...]:
    """Train a probe for every label; each seed takes the learning rate that is best on its selection share.

    Unlike a linear probe, the head that is chosen is the one that was measured: it is not trained again on all clips.

    Args:
        build: (classes, seed) -> a head with its initial weights.
        known: features of the training clips.
        known_labels: int64 (S, L).
        unseen: features of the held-out clips.
        unseen_labels: int64 (S', L).
        recipe: seeds, selection share and training.
        device: device of the heads.
        on_progress: called with (steps done, steps in all).

    Raises:
        ConfigError: if all heads of a label diverged.
    """
    classes = [_classes(known_labels[:, label], unseen_labels[:, label]) for label in range(known_labels.shape[1])]
    candidates = [
        Candidate(build(classes[label], seed).to(device), rate, place, label)
        for label in range(len(classes))
        for place, seed in enumerate(recipe.seeds)
        for rate in recipe.head.learning_rates
    ]
    splits = np.stack([selection_split(len(known_labels), recipe.selection_share, seed)[0] for seed in recipe.seeds])
    _train(candidates, known, known_labels, splits, recipe, device, on_progress)
    on_known = _hits(candidates, known, known_labels, device, recipe.head.batch)
    on_unseen = _hits(candidates, unseen, unseen_labels, device, recipe.head.batch)
    return tuple(_choose(candidates, label, splits, on_known, on_unseen, recipe) for label in range(len(classes)))


def _classes(known: np.ndarray, unseen: np.ndarray) -> int:
    return int(max(known.max(), unseen.max())) + 1


def _train(
    candidates: list[Candidate],
    known: FrozenStore,
    labels: np.ndarray,
    splits: np.ndarray,
    recipe: ProbeRecipe,
    device: torch.device,
    on_progress: Callable[[int, int], None],
) -> None:
    """Step every head on every batch; a head's loss leaves out the clips that choose its learning rate."""
    settings = recipe.head
    optimizers = [
        torch.optim.AdamW([p for p in one.head.parameters() if p.requires_grad], lr=one.rate, weight_decay=settings.weight_decay)
        for one in candidates
    ]
    targets, held_back = torch.from_numpy(labels).to(device), torch.from_numpy(splits)
    steps = math.ceil(len(labels) / settings.batch) * settings.epochs
    done = 0
    for epoch in range(settings.epochs):
        order = np.random.default_rng([recipe.run.seed, epoch]).permutation(len(labels)).tolist()
        for clips, frozen in known.batches(_groups(order, settings.batch)):
            frozen = _on(frozen, device)
            factor = 0.5 * (1 + math.cos(math.pi * done / steps))
            for one, optimizer in zip(candidates, optimizers, strict=True):
                _step(one, optimizer, factor, frozen, targets[clips, one.label], ~held_back[one.seed, clips])
            done += 1
            on_progress(done, steps)


def _step(
    one: Candidate, optimizer: torch.optim.Optimizer, factor: float, frozen: Frozen, targets: Tensor, counted: Tensor
) -> None:
    """One step of one head, on the clips of the batch that it learns from."""
    if not bool(counted.any()):  # counted is on the CPU: nobody waits for the device
        return
    for group in optimizer.param_groups:
        group["lr"] = one.rate * factor
    losses = F.cross_entropy(one.head(frozen).float(), targets, reduction="none")
    optimizer.zero_grad(set_to_none=True)
    (losses * counted.to(losses.device)).sum().div(int(counted.sum())).backward()
    optimizer.step()


@torch.inference_mode()
def _hits(candidates: list[Candidate], store: FrozenStore, labels: np.ndarray, device: torch.device, batch: int) -> np.ndarray:
    """Return which clips each head classifies rightly, bool (candidates, S)."""
    targets = torch.from_numpy(labels)
    hits = np.zeros((len(candidates), len(labels)), bool)
    for clips, frozen in store.batches(_groups(list(range(len(labels))), batch)):
        frozen = _on(frozen, device)
        for row, one in enumerate(candidates):
            logits = one.head(frozen).float()
            right = (logits.argmax(1).cpu() == targets[clips, one.label]) & logits.isfinite().all(1).cpu()
            hits[row, clips] = right.numpy()
    return hits


def _choose(
    candidates: list[Candidate], label: int, splits: np.ndarray, on_known: np.ndarray, on_unseen: np.ndarray, recipe: ProbeRecipe
) -> Probe:
    """Return the probe of ``label`` with the best learning rate of each seed; of equals, the smallest."""
    rows, rates = [], []
    for place in range(len(recipe.seeds)):
        mine = [row for row, one in enumerate(candidates) if (one.seed, one.label) == (place, label)]
        mine.sort(key=lambda row: candidates[row].rate)
        best = max(mine, key=lambda row: on_known[row, splits[place]].mean())
        if not all(bool(parameter.isfinite().all()) for parameter in candidates[best].head.parameters()):
            raise ConfigError(f"head.learning_rates {recipe.head.learning_rates}: every head diverged; choose smaller ones")
        rows.append(on_unseen[best])
        rates.append(candidates[best].rate)
    correct = np.stack(rows)
    return Probe(float(correct.mean()), tuple(correct.mean(1).tolist()), tuple(rates), correct)


def _groups(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def _stack(rows: list[Frozen]) -> Frozen:
    return type(rows[0])(*(None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True)))


def _on(frozen: Frozen, device: torch.device) -> Frozen:
    return type(frozen)(*(part if part is None else part.to(device) for part in frozen))
