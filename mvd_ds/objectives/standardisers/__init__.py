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

from mvd_ds.objectives.standardisers.per_clip import ClipStandardiser
from mvd_ds.objectives.standardisers.per_token import TokenStandardiser, normalise_tokens
from mvd_ds.objectives.standardisers.phi_s import PhiSStandardiser
from mvd_ds.objectives.standardisers.running import RunningStandardiser
from mvd_ds.objectives.standardisers.standardiser import STABILISER, Standardiser

__all__ = ["STABILISER", "STANDARDISERS", "Standardiser", "normalise_tokens"]

STANDARDISERS: dict[str, Callable[[int, str], Standardiser]] = {
    "none": Standardiser,
    "token": TokenStandardiser,
    "clip": ClipStandardiser,
    "running": RunningStandardiser,
    "phi_s": PhiSStandardiser,
}
"""Every kind of standardisation: value of ``target.standardise`` -> (width, name of the target) -> the standardiser."""
