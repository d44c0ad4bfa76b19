"""Diagnostics: known spectra, collapse, and what predicting the mean costs."""

import pytest
import torch

from mvd_ds.objectives.diagnostics import effective_rank, feature_variance, mean_target_loss


def test_mean_target_loss_is_golden() -> None:
    target = torch.tensor([[[0.0, 10.0], [2.0, 10.0]], [[4.0, 10.0], [6.0, 10.0]]])
    # the mean is (3, 10); d = 3, 1, 1, 3 in the first feature, 0 in the second
    assert mean_target_loss(target, "l2").item() == pytest.approx(20 / 8)
    assert mean_target_loss(target, "l1").item() == pytest.approx(8 / 8)
    assert mean_target_loss(target, "smooth_l1").item() == pytest.approx((2.5 + 0.5 + 0.5 + 2.5) / 8)


def test_mean_target_loss_of_l2_is_the_feature_variance() -> None:
    target = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert mean_target_loss(target, "l2").item() == pytest.approx(feature_variance(target).item(), rel=1e-5)


def test_feature_variance_is_golden() -> None:
    assert feature_variance(torch.tensor([[[0.0, 1.0], [4.0, 1.0]]])).item() == pytest.approx((4.0 + 0.0) / 2)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_singular_values_is_their_number(rank: int) -> None:
    # columns of a Hadamard matrix but the first: centred, orthogonal, of equal length
    hadamard = torch.ones(1, 1)
    for _ in range(4):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    features = torch.cat([hadamard[:, 1 : rank + 1], torch.zeros(16, 5)], dim=1) + 3.0
    assert effective_rank(features).item() == pytest.approx(rank, rel=1e-4)


def test_effective_rank_of_two_unequal_directions() -> None:
    # centred singular values 3 and 1: shares 3/4, 1/4; exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 1.7548
    features = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) / 2**0.5
    assert effective_rank(features).item() == pytest.approx(1.754765, rel=1e-5)


def test_collapse_shows() -> None:
    generator = torch.Generator().manual_seed(1)
    constant = torch.randn(1, 64, generator=generator).expand(256, -1)
    assert effective_rank(constant).item() == 0
    assert effective_rank(constant * 1000).item() == 0
    line = torch.randn(256, 1, generator=generator) * torch.randn(1, 64, generator=generator)
    assert effective_rank(line).item() == pytest.approx(1.0, abs=0.01)
    assert 50 < effective_rank(torch.randn(256, 64, generator=generator)).item() <= 64


def test_features_that_are_not_finite_give_nan_and_do_not_raise() -> None:
    features = torch.randn(8, 4)
    features[3, 2] = float("nan")
    assert torch.isnan(effective_rank(features))


def test_no_diagnostic_carries_a_graph() -> None:
    features = torch.randn(8, 4, requires_grad=True)
    assert not any(
        x.requires_grad for x in (effective_rank(features), feature_variance(features), mean_target_loss(features, "l1"))
    )
