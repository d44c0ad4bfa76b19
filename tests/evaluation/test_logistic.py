"""The solver finds the minimum that scikit-learn finds, where scikit-learn takes its time."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mvd_ds.evaluation.logistic import fit_along_grid

GRID = (1e-3, 1e-1, 10.0)


def correlated(samples: int = 400, width: int = 24, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features whose variances span three decades in hidden directions, standardised, and labels that some of them tell."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    hidden = rng.normal(size=(samples, width)) + rng.normal(size=(classes, width))[labels] * 0.4
    turned = hidden * np.logspace(0, -3, width) @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    return ((turned - turned.mean(0)) / turned.std(0)).astype(np.float32), labels


def loss(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray, c: float) -> float:
    scores = features.astype(np.float64) @ weights + bias
    entropy = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]
    return float(c * entropy.sum() + (weights**2).sum() / 2)


@pytest.mark.parametrize("width", [24, 500])
def test_the_minimum_is_that_of_scikit_learn(width: int) -> None:
    features, labels = correlated(width=width)
    for c, classifier in zip(GRID, fit_along_grid(features, labels, GRID), strict=True):
        known = LogisticRegression(C=c, tol=1e-8, max_iter=20000).fit(features.astype(np.float64), labels)
        theirs = loss(features, labels, known.coef_.T, known.intercept_, c)
        assert loss(features, labels, classifier.weights, classifier.bias, c) == pytest.approx(theirs, rel=1e-3)
        assert (classifier.predict(features) == known.predict(features)).mean() > 0.995


def test_classes_keep_their_numbers() -> None:
    features, labels = correlated(classes=2)
    named = np.array([7, 3])[labels]
    classifier = fit_along_grid(features, named, (1.0,))[0]
    assert set(classifier.predict(features)) == {3, 7}
    assert (classifier.predict(features) == named).mean() > 0.8


def test_a_fit_does_not_depend_on_the_ones_before_it() -> None:
    features, labels = correlated()
    after, alone = fit_along_grid(features, labels, GRID)[-1], fit_along_grid(features, labels, GRID[-1:])[0]
    np.testing.assert_allclose(features @ after.weights, features @ alone.weights, atol=0.02 * (features @ alone.weights).std())
