"""Every standardiser by its name: none changes no bit, token and clip against loops, and what cannot be undone says so."""

import numpy as np
import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.objectives.standardisers import STANDARDISERS, normalise_tokens, standardised

FEATURES = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)) * 7 + 2


def test_none_gives_back_the_very_tensor() -> None:
    standardiser = STANDARDISERS["none"](6, "image")
    assert standardiser(FEATURES) is FEATURES and standardiser.inverse(FEATURES) is FEATURES


def test_token_is_the_normalisation_of_the_reference_to_the_bit() -> None:
    assert torch.equal(STANDARDISERS["token"](6, "image")(FEATURES), normalise_tokens(FEATURES))


def test_clip_is_a_loop_over_clips_and_channels() -> None:
    got = STANDARDISERS["clip"](6, "image")(FEATURES.bfloat16())
    raw = FEATURES.bfloat16().double().numpy()
    for clip in range(3):
        for channel in range(6):
            values = raw[clip, :, channel]
            expected = (values - values.mean()) / np.sqrt(((values - values.mean()) ** 2).mean() + 1e-6)
            assert np.allclose(got[clip, :, channel], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["token", "clip"])
def test_statistics_that_nobody_keeps_cannot_be_undone(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"target image: .* cannot be undone; running and phi_s can"):
        STANDARDISERS[kind](6, "image").inverse(FEATURES)


@pytest.mark.parametrize("kind", STANDARDISERS)
def test_only_running_and_phi_s_have_a_state(kind: str) -> None:
    names = set(STANDARDISERS[kind](6, "image").state_dict())
    assert names == {"running": {"mean", "deviation"}, "phi_s": {"mean", "rotation", "scale"}}.get(kind, set())


def test_without_a_run_features_are_standardised_by_themselves_or_by_a_function() -> None:
    for kind in ("none", "token", "clip"):
        assert torch.equal(standardised(FEATURES, kind), STANDARDISERS[kind](6, "image")(FEATURES))
    fitted = STANDARDISERS["running"](6, "image")
    fitted.mean.fill_(2.0)
    assert torch.equal(standardised(FEATURES, fitted), fitted(FEATURES)) and not torch.equal(fitted(FEATURES), FEATURES)


@pytest.mark.parametrize(
    ("how", "said"), [("running", "has statistics of a run"), ("phi_s", "has statistics"), ("tok", "not known")]
)
def test_what_a_run_estimates_is_refused_without_one(how: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        standardised(FEATURES, how)
