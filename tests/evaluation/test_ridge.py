"""Ridge regression from sums is scikit-learn's, whatever is added up in which parts."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import Ridge

from mvd_ds.evaluation.ridge import Sums, predict, relative_errors, ridge


def examples(rows: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 6, generator=generator) * torch.tensor([1.0, 5, 0.1, 1, 2, 1]) + torch.arange(6.0)
    inputs[:, 3] = 7.0  # a constant
    wanted = inputs[:, :2] @ torch.tensor([[1.0, 0.2], [-0.3, 2.0]]) + 0.1 * torch.randn(rows, 2, generator=generator)
    return inputs, wanted


def test_weights_are_those_of_scikit_learn_and_a_constant_has_none() -> None:
    inputs, wanted = examples()
    parts = [Sums.of(inputs[:40], wanted[:40]), Sums.of(inputs[40:], wanted[40:])]
    deviation = inputs.double().std(0, correction=0).clamp_min(1e-9).numpy()
    for penalty, weights in zip((1e-3, 0.5), ridge(parts[0].plus(parts[1]), (1e-3, 0.5)), strict=True):
        model = Ridge(alpha=penalty * len(inputs)).fit(inputs.double().numpy() / deviation, wanted.double().numpy())
        np.testing.assert_allclose(weights[1:].numpy(), model.coef_.T / deviation[:, None], atol=1e-8)
        np.testing.assert_allclose(
            predict(weights, inputs).numpy(), model.predict(inputs.double().numpy() / deviation), atol=1e-6
        )
        assert (weights[4] == 0).all()


def test_sums_of_a_part_can_be_taken_away_and_tell_errors() -> None:
    inputs, wanted = examples()
    total, part = Sums.of(inputs, wanted), Sums.of(inputs[:30], wanted[:30])
    rest = Sums.of(inputs[30:], wanted[30:])
    for ours, theirs in zip(total.minus(part), rest, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (total.rows, total.minus(part).rows) == (90, 60)
    weights = ridge(rest, [1e-2])[0]
    errors = ((predict(weights, inputs[:30]) - wanted[:30]) ** 2).sum(0) / ((wanted[:30] - wanted[:30].mean(0)) ** 2).sum(0)
    torch.testing.assert_close(relative_errors(part, weights), errors.double(), rtol=1e-4, atol=1e-8)
