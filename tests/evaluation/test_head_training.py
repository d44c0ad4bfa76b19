"""Heads find what is planted in tokens, choose their rate without held-out clips, and see the same numbers kept or not."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.head_answers import Answers, Outcome, choose, probe_of
from mvd_ds.evaluation.head_bank import Candidate
from mvd_ds.evaluation.head_training import Labelled, Training, train_heads
from mvd_ds.evaluation.probes import Probe, nearest_neighbours, selection_split
from mvd_ds.evaluation.token_store import FrozenStore

TRAIN, HELD_OUT, WIDTH = 300, 100, 8
RNG = np.random.default_rng(0)
LABELS = np.stack([RNG.integers(0, 3, TRAIN + HELD_OUT), RNG.integers(0, 2, TRAIN + HELD_OUT)], 1)
MEANS = RNG.normal(size=(3, WIDTH)) * 2
TOKENS = torch.from_numpy(MEANS[LABELS[:, 0]] + RNG.normal(size=(TRAIN + HELD_OUT, WIDTH))).float()


class Frozen(NamedTuple):
    tokens: Tensor
    others: Tensor | None = None

    def seen(self, block: int, view: int) -> Frozen:
        return self


class Head(nn.Module):
    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, classes)
        nn.init.normal_(self.layer.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.layer.bias)

    def forward(self, frozen: Frozen) -> Tensor:
        return self.layer(frozen.tokens)


CPU = torch.device("cpu")


def store(part: slice, calls: list[int], keep: bool = True) -> FrozenStore:
    rows = TOKENS[part]

    def make(groups: Sequence[Sequence[int]]) -> Iterator[Frozen]:
        calls.append(len(groups))
        for group in groups:
            yield Frozen(rows[list(group)])

    return FrozenStore(make, len(rows), keep, 16, CPU)


def recipe(**head: object) -> ProbeRecipe:
    settings = {"epochs": 4, "batch": 32, "learning_rates": (1e-6, 3e-2), **head}
    return ProbeRecipe(objective="probe", models={"a": {"weights": "a"}}, heads=("attentive",), head=settings)


def fit(labels: np.ndarray = LABELS, keep: bool = True, **head: object) -> tuple[tuple[Probe, ...], list[int]]:
    calls: list[int] = []
    known = Labelled(store(slice(TRAIN), calls, keep), labels[:TRAIN])
    unseen = Labelled(store(slice(TRAIN, None), [], keep), labels[TRAIN:])
    return train_heads(Head, known, unseen, recipe(**head), CPU)[0], calls


def test_a_planted_label_is_found_by_the_better_rate() -> None:
    (planted, absent), _ = fit()
    assert planted.top1 > 0.85 and planted.regularisations == (3e-2,) * 3
    assert absent.top1 == pytest.approx(0.5, abs=0.12)
    assert planted.correct.shape == (3, HELD_OUT) and planted.per_seed == tuple(planted.correct.mean(1))


def test_features_are_computed_once_where_they_fit_and_again_where_not() -> None:
    kept, calls = fit()
    again, more = fit(keep=False)
    assert len(calls) == 1 and len(more) == 5, "four epochs, and the pass that chooses"
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one.correct, other.correct)


def test_held_out_clips_choose_nothing_and_chosen_clips_teach_nothing() -> None:
    turned = LABELS.copy()
    turned[TRAIN:] = 0
    assert [probe.regularisations for probe in fit(turned)[0]] == [probe.regularisations for probe in fit()[0]]
    # A head that learned from the clips that choose would change with their labels.
    chosen = np.flatnonzero(selection_split(TRAIN, 0.2, 0)[0])
    changed = LABELS.copy()
    changed[chosen] = (changed[chosen] + 1) % [3, 2]
    one = ProbeRecipe.model_validate(recipe(learning_rates=(3e-2,)).model_dump() | {"seeds": (0,)})
    found = [
        train_heads(
            Head,
            Labelled(store(slice(TRAIN), []), labels[:TRAIN]),
            Labelled(store(slice(TRAIN, None), []), LABELS[TRAIN:]),
            one,
            CPU,
        )[0]
        for labels in (LABELS, changed)
    ]
    np.testing.assert_array_equal(found[0][0].correct, found[1][0].correct)


def test_all_that_diverges_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"head\.learning_rates .*every head diverged; choose smaller ones"):
        fit(learning_rates=(1e37,))


def test_a_head_that_diverged_is_not_chosen_before_one_that_is_always_wrong() -> None:
    candidates = [Candidate(0, 0, 0, rate, 0.01) for rate in (1e-6, 1e-3)]
    told = [Answers(np.full(4, answer), np.zeros(4, np.float32)) for answer in (-1, 0)]
    outcomes = [Outcome(told[0], [told[0]], False, None), Outcome(told[1], [told[1]], True, None)]
    best = choose(candidates, (0, 0), np.ones((1, 4), bool), outcomes, np.ones(4, int), recipe())
    probe = probe_of(candidates, outcomes, best, 0, np.zeros(4, int), np.ones(4, bool))
    assert probe is not None
    assert probe.regularisations == (1e-3,) and probe.top1 == 1.0


def test_a_grid_in_one_pass_is_each_of_its_heads_alone() -> None:
    rates, decays = (3e-3, 1e-2, 3e-2, 6e-2, 1e-1), (0.01, 0.1, 0.4, 0.8)
    one_seed = {"seeds": (1,), "run": {"seed": 3}}
    calls: list[int] = []

    def trained(rates: tuple[float, ...], decays: tuple[float, ...], **more: object) -> dict[tuple[float, float], Tensor]:
        settings = recipe(learning_rates=rates, weight_decay=decays, **more).model_dump() | one_seed
        heads: list[Head] = []

        def build(classes: int, seed: int) -> Head:
            heads.append(Head(classes, seed))
            return heads[-1]

        labelled = Labelled(store(slice(TRAIN), calls), LABELS[:TRAIN, :1])
        unseen = Labelled(store(slice(TRAIN, None), []), LABELS[TRAIN:, :1])
        train_heads(build, labelled, unseen, ProbeRecipe.model_validate(settings), CPU)
        grid = [(rate, decay) for rate in rates for decay in decays]
        return dict(zip(grid, (head.layer.weight.detach() for head in heads), strict=True))

    together = trained(rates, decays)
    assert len(together) == 20 and len(calls) == 1, "twenty heads, and features are computed once"
    parts = trained(rates, decays, together=6)
    for (rate, decay), weight in together.items():
        alone = trained((rate,), (decay,))[rate, decay]
        torch.testing.assert_close(weight, alone, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weight, parts[rate, decay], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together[3e-2, 0.01], together[3e-2, 0.8], atol=1e-3), "the grid does vary"


class Memory:
    """A keeper in memory that stops a training after some steps."""

    def __init__(self, stop: int) -> None:
        self.stop, self.step, self.states = stop, 0, {}

    def begin(self) -> int:
        return self.step

    def load(self, number: int) -> dict:
        return self.states[number]

    def save(self, step: int, states: dict) -> None:
        self.step, self.states = step, copy.deepcopy(states)
        if step == self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [4, 10])
@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupted_training_ends_as_an_untouched_one(stop: int, keep: bool) -> None:
    settings = ProbeRecipe.model_validate(recipe().model_dump() | {"run": {"save_every_steps": 2}})

    def run(keeper: Memory) -> list[tuple[Probe, ...]]:
        known = Labelled(store(slice(TRAIN), [], keep), LABELS[:TRAIN])
        unseen = Labelled(store(slice(TRAIN, None), [], keep), LABELS[TRAIN:])
        return train_heads(Head, known, unseen, settings, CPU, Training(keeper=keeper))

    untouched, keeper = run(Memory(0)), Memory(stop)
    with pytest.raises(KeyboardInterrupt):
        run(keeper)
    assert keeper.step == stop
    keeper.stop = 0
    for one, other in zip(untouched[0], run(keeper)[0], strict=True):
        np.testing.assert_array_equal(one.classes, other.classes)
        np.testing.assert_array_equal(one.shares, other.shares)


def test_neighbours_vote_by_cosine_and_weight() -> None:
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 5.0], [0.1, 1.0], [0.2, 1.0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    unseen = np.array([[10.0, 0.5], [0.1, 0.9]], np.float32)
    settings = ProbeRecipe.model_validate(recipe().model_dump() | {"neighbours": {"count": 5, "temperature": 0.07}})
    found = nearest_neighbours(train, labels, unseen, np.array([0, 1]), settings)
    assert found.correct.tolist() == [[True, True]] * 3, "the nearest weigh more than the many"
    flat = ProbeRecipe.model_validate(recipe().model_dump() | {"neighbours": {"count": 5, "temperature": 1e3}})
    assert nearest_neighbours(train, labels, unseen, np.array([0, 1]), flat).correct[0].tolist() == [False, True]
