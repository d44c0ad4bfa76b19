"""Probes find what is planted, call chance chance, and never look at held-out clips before the end."""

import numpy as np
import pytest

from mvd_ds.config import ConfigError, ProbeRecipe
from mvd_ds.evaluation.probes import Probe, chance, compare, fit_probe, fit_probes

WIDTH, TRAIN, HELD_OUT = 32, 1200, 800
RNG = np.random.default_rng(0)
LABELS = np.stack([RNG.integers(0, 10, TRAIN + HELD_OUT), RNG.integers(0, 8, TRAIN + HELD_OUT)], 1)
MEANS = RNG.normal(size=(10, WIDTH))


def recipe(**settings: object) -> ProbeRecipe:
    return ProbeRecipe(objective="probe", models={"a": {"weights": "a"}}, validation_manifest="val.txt", **settings)


def features(label: int | None, strength: float, seed: int) -> np.ndarray:
    """Noise, and ``strength`` times a mean for each class of ``label``."""
    noise = np.random.default_rng(seed).normal(size=(len(LABELS), WIDTH))
    return (noise if label is None else noise + strength * MEANS[LABELS[:, label]]).astype(np.float32)


def fit(models: dict[str, np.ndarray], labels: np.ndarray = LABELS, **settings: object) -> dict[str, tuple[Probe, ...]]:
    train, held_out = ({name: values[part] for name, values in models.items()} for part in (slice(TRAIN), slice(TRAIN, None)))
    return fit_probes(train, labels[:TRAIN], held_out, labels[TRAIN:], recipe(**settings))


def fit_one(values: np.ndarray, **settings: object) -> Probe:
    return fit_probe(values[:TRAIN], LABELS[:TRAIN, 0], values[TRAIN:], LABELS[TRAIN:, 0], recipe(**settings))


def test_a_planted_label_is_found_and_the_other_is_not() -> None:
    found = fit({"what": features(0, 1.0, 1), "how": features(1, 1.0, 2)})
    assert found["what"][0].top1 > 0.9 and found["how"][1].top1 > 0.9
    assert found["what"][1].top1 == pytest.approx(1 / 8, abs=0.04)
    assert found["how"][0].top1 == pytest.approx(1 / 10, abs=0.04)


def test_permuted_labels_give_chance() -> None:
    labels = np.random.default_rng(5).permutation(LABELS)
    found = fit({"a": features(0, 1.0, 1)}, labels)["a"]
    assert found[0].top1 == pytest.approx(0.1, abs=0.04)
    assert chance(labels[TRAIN:, 0]) == pytest.approx(0.1, abs=0.03)


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    assert chance(np.array([3, 3, 3, 1, 0])) == 0.6


def test_numbers_belong_together_and_come_again() -> None:
    values = features(0, 0.5, 1)
    probe, again = fit_one(values), fit_one(values)
    assert probe.correct.shape == (3, HELD_OUT) and probe.correct.dtype == bool
    assert probe.per_seed == tuple(probe.correct.mean(1))
    assert probe.top1 == pytest.approx(np.mean(probe.per_seed))
    assert set(probe.regularisations) <= set(recipe().regularisations)
    assert probe.per_seed == again.per_seed and (probe.correct == again.correct).all()


def test_held_out_clips_choose_nothing() -> None:
    values = features(0, 0.5, 1)
    whole = fit_one(values)
    few = fit_probe(values[:TRAIN], LABELS[:TRAIN, 0], values[TRAIN:][:50], LABELS[TRAIN:, 0][:50], recipe())
    assert few.regularisations == whole.regularisations
    assert (few.correct == whole.correct[:, :50]).all()


def test_features_are_standardised_by_the_training_clips_alone() -> None:
    values = features(0, 0.5, 1)
    scales = np.logspace(-3, 3, WIDTH).astype(np.float32)
    assert fit_one(values * scales + 5 * scales).per_seed == pytest.approx(fit_one(values).per_seed, abs=0.005)
    shifted = values.copy()
    shifted[TRAIN:] += 20 * MEANS[0].astype(np.float32)
    assert fit_one(shifted).top1 < 0.2, "a shift of the held-out clips alone is not taken away"


def test_a_noisy_network_is_regularised_more() -> None:
    noise = np.random.default_rng(1).normal(size=(len(LABELS), 600)).astype(np.float32)
    noisy = fit_one(np.concatenate([features(0, 0.3, 1), noise], 1))
    assert max(noisy.regularisations) <= 0.01
    fixed = fit_one(np.concatenate([features(0, 0.3, 1), noise], 1), regularisations=(10.0,))
    assert noisy.top1 > fixed.top1
    # Whatever C is, nothing is learned from constant features: of equals, the strongest regularisation.
    assert set(fit_one(np.zeros((len(LABELS), WIDTH), np.float32)).regularisations) == {1e-4}


def test_a_paired_difference_is_found_where_an_unpaired_one_would_not_be() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random((3, 2000)) < 0.5
    better = hard | (rng.random((3, 2000)) < 0.03)
    a, b = (Probe(rows.mean(), (), (), rows) for rows in (better, hard))
    gain = compare(a, b, 1000)
    assert gain.difference == pytest.approx(better.mean() - hard.mean())
    assert 0 < gain.low < gain.difference < gain.high
    assert compare(b, a, 1000).high < 0
    assert compare(a, a, 100) == (0, 0, 0)
    assert compare(a, b, 1000) == gain


def test_the_interval_covers_the_true_difference() -> None:
    covered = 0
    for trial in range(150):
        rng = np.random.default_rng(trial)
        base = rng.random((1, 400))
        # Seeds agree on most clips, as refits of one network do. The true difference is 0.05.
        a, b = ((base + 0.05 * rng.normal(size=(3, 400)) < level) for level in (0.55, 0.5))
        gain = compare(Probe(0, (), (), a), Probe(0, (), (), b), 300)
        covered += gain.low <= 0.05 <= gain.high
    assert covered / 150 > 0.9


def test_progress_counts_probes() -> None:
    seen: list[tuple[int, int]] = []
    values = {"a": features(0, 1.0, 1), "b": features(None, 0, 2)}
    train, held_out = ({name: rows[part] for name, rows in values.items()} for part in (slice(300), slice(300, 400)))
    fit_probes(train, LABELS[:300], held_out, LABELS[300:400], recipe(), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_probed_is_one_line() -> None:
    broken = features(0, 1.0, 1)
    broken[3, 3] = np.nan
    with pytest.raises(ConfigError, match=r"models\.student: its features are not finite"):
        fit({"student": broken})
    with pytest.raises(ConfigError, match="single class"):
        fit({"a": features(0, 1.0, 1)}, np.zeros_like(LABELS))
