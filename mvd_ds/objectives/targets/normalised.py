"""Targets that are the features of a teacher, every token normalised."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mvd_ds.objectives.targets.features import FeatureTarget
from mvd_ds.objectives.targets.pixels import STABILISER


class NormalisedTarget(FeatureTarget):
    """The features of one teacher after a LayerNorm without parameters on every token. Source: MVD, ``--norm_feature``."""

    standardise = "token"

    def standardised(self, features: Tensor) -> Tensor:
        """Return ``normalise_tokens(features)``."""
        return normalise_tokens(features)


def normalise_tokens(features: Tensor) -> Tensor:
    """Return every token after a LayerNorm without parameters, computed in fp32.

    Args:
        features: (..., D), any float type.

    Returns:
        (..., D) fp32, mean 0 and biased variance 1 over D. Source: MVD, ``--norm_feature``.
    """
    return functional.layer_norm(features.float(), features.shape[-1:], eps=STABILISER)
