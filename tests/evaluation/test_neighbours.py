"""The vote of neighbours on features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from mvd_ds.evaluation.neighbours import few_of_many, leave_one_out


def test_clips_of_one_kind_find_each_other_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 8
    noise = rng.normal(size=(400, 64)).astype(np.float32)
    kinds = rng.normal(size=(8, 64)).astype(np.float32)[labels]
    assert leave_one_out(kinds + 0.3 * noise, labels) == 1.0
    assert leave_one_out(noise, labels) == pytest.approx(1 / 8, abs=0.06)
    assert leave_one_out(5 * (kinds + 0.3 * noise), labels) == 1.0, "length says nothing"


def test_a_clip_does_not_vote_for_itself() -> None:
    features = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], np.float32)
    assert leave_one_out(features, np.array([0, 1, 0, 1])) == 0.0
    assert leave_one_out(features, np.array([0, 0, 1, 1])) == 1.0


def test_few_clips_of_many_classes_are_of_few_classes() -> None:
    labels = np.repeat(np.arange(400), 100)[:, None]
    chosen = few_of_many(labels, 250, seed=3)
    kinds, counts = np.unique(labels[chosen], return_counts=True)
    assert len(chosen) == 250 == len(set(chosen.tolist())) and len(kinds) == 10 and counts.min() >= 10
    assert kinds[0] == 0 and kinds[-1] == 399
    assert (few_of_many(labels, 250, seed=3) == chosen).all() and (few_of_many(labels, 250, seed=4) != chosen).any()
    assert len(few_of_many(np.arange(12)[:, None] % 3, 250, seed=0)) == 12
