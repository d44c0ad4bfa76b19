"""Readouts: what a student puts behind its encoder to predict one target. One file for each kind, one row in ``READOUTS``.

=================  =====================================================================
``readout``        ``Readout``: the base class
``decoder``        transformer blocks over visible tokens and mask tokens, as published
``cross``          mask tokens that look at visible tokens alone, as CrossMAE
=================  =====================================================================
"""

from __future__ import annotations

from mvd_ds.config import HeadShape
from mvd_ds.models.readouts.cross import CrossDecoder
from mvd_ds.models.readouts.decoder import Decoder
from mvd_ds.models.readouts.readout import Readout

__all__ = ["READOUTS", "CrossDecoder", "Decoder", "Readout", "readout_of"]

READOUTS: dict[str, type[Readout]] = {"decoder": Decoder, "cross": CrossDecoder}
"""Every kind of readout by name."""


def readout_of(shape: HeadShape) -> type[Readout]:
    """Return the kind of readout that predicts what a target asks for."""
    return READOUTS["cross" if shape.decoder.attention == "cross" else "decoder"]
