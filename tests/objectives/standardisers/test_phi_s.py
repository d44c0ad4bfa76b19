"""PHI-S: equal variances and an exact inverse, for any widths, precision and split of the calibration clips."""

import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.objectives.moving_statistics import settle_statistics
from mvd_ds.objectives.standardisers.phi_s import PhiSStandardiser


def _features(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Correlated channels of unlike scales and means, with one loud channel, as in raw features of teachers."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.logspace(-2, 1, width)
    features = torch.randn(tokens, width, generator=generator) @ mixing + 5 * torch.randn(width, generator=generator)
    features[:, 0] *= 50
    return features.view(4, -1, width)


def _calibrated(features: Tensor, parts: int = 1) -> PhiSStandardiser:
    standardiser = PhiSStandardiser(features.shape[-1], "image")
    standardiser.begin(0)
    for part in features.chunk(parts):
        standardiser.observe(part, part)
    settle_statistics([standardiser], lambda sums: sums)
    return standardiser


@pytest.mark.parametrize("width", [8, 12, 7])
def test_every_channel_has_mean_0_and_variance_1_and_the_inverse_is_exact(width: int) -> None:
    features = _features(4000, width)
    standardiser = _calibrated(features)
    standardised = standardiser(features)
    variance, mean = torch.var_mean(standardised.flatten(0, 1).double(), dim=0, correction=0)
    assert torch.allclose(mean, torch.zeros(width, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(variance, torch.ones(width, dtype=torch.float64), rtol=1e-3)
    back = standardiser.inverse(standardised)
    assert (back - features).norm() < 1e-6 * features.norm()


def test_no_direction_is_stretched_against_another() -> None:
    features = _features(4000, 12)
    standardised = _calibrated(features)(features)
    before, after = (torch.pdist(value[0, :50].double()) for value in (features, standardised))
    assert torch.allclose(after / before, (after / before).mean().expand_as(after), rtol=1e-4)


def test_the_split_of_the_calibration_changes_nothing() -> None:
    features = _features(4000, 12)
    whole, parts = _calibrated(features), _calibrated(features, parts=4)
    assert torch.allclose(whole.rotation, parts.rotation, atol=1e-6) and torch.allclose(whole.scale, parts.scale)


def test_bf16_features_are_rotated_in_bf16_and_come_back_within_its_rounding() -> None:
    features = _features(4000, 64)
    standardiser = _calibrated(features)
    rounded = standardiser(features.bfloat16())
    assert rounded.dtype == torch.float32
    assert (rounded - standardiser(features)).norm() < 2**-7 * rounded.norm()


def test_fewer_tokens_than_channels_and_equal_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="covariance of 16 channels, and the calibration clips have 16 tokens; raise"):
        _calibrated(_features(16, 16))
    with pytest.raises(ConfigError, match="are equal; there is nothing to learn"):
        _calibrated(torch.ones(4, 10, 8))


def test_nothing_is_collected_in_training_and_the_rotation_is_counted() -> None:
    features = _features(4000, 8)
    standardiser = _calibrated(features)
    standardiser.observe(features, standardiser(features))
    assert not standardiser.moves and len(standardiser.sums) == 0
    assert standardiser.flops(1408) == 2 * 1408 * 8 * 8
    assert set(standardiser.state_dict()) == {"mean", "rotation", "scale"}
