"""Standardisers: how the features of unlike teachers come to one scale. One file for each kind, one row in ``STANDARDISERS``.

=================  ======================================================================
``standardiser``   ``Standardiser``: the base class, which changes nothing
``per_token``      every token by itself (LayerNorm)
``per_clip``       every channel over the tokens of its clip
``running``        every channel by statistics that move with the run
``phi_s``          a rotation to equal variances, and one scale
``hadamard``       the matrices of that rotation
=================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.objectives.standardisers.per_clip import ClipStandardiser
from mvd_ds.objectives.standardisers.per_token import TokenStandardiser, normalise_tokens
from mvd_ds.objectives.standardisers.phi_s import PhiSStandardiser
from mvd_ds.objectives.standardisers.running import RunningStandardiser
from mvd_ds.objectives.standardisers.standardiser import STABILISER, Standardiser

__all__ = ["STABILISER", "STANDARDISERS", "Standardiser", "normalise_tokens", "standardised"]

STANDARDISERS: dict[str, Callable[[int, str], Standardiser]] = {
    "none": Standardiser,
    "token": TokenStandardiser,
    "clip": ClipStandardiser,
    "running": RunningStandardiser,
    "phi_s": PhiSStandardiser,
}
"""Every kind of standardisation: value of ``target.standardise`` -> (width, name of the target) -> the standardiser."""


def standardised(features: Tensor, how: str | Callable[[Tensor], Tensor]) -> Tensor:
    """Return features (B, N, D) standardised without a run: by statistics of their own, or by a function that is ready.

    Args:
        features: those of all tokens of each clip.
        how: none, token or clip; or a function of features, such as a standardiser with the statistics of a run.

    Raises:
        ConfigError: for another name: running and phi_s have statistics that a run estimates.
    """
    if callable(how):
        return how(features)
    if how not in STANDARDISERS or STANDARDISERS[how](features.shape[-1], "features").rounds:
        why = "has statistics of a run: give a function that has them" if how in STANDARDISERS else "is not known"
        raise ConfigError(f"standardise '{how}' {why}; none, token and clip need none")
    result: Tensor = STANDARDISERS[how](features.shape[-1], "features")(features)
    return result
