"""Readouts: what a student puts behind its encoder to predict one target. One file for each kind, one row in ``READOUTS``.

=================  =====================================================================
``readout``        ``Readout``: the base class
``decoder``        transformer blocks over visible tokens and mask tokens, as published
``cross``          mask tokens that look at visible tokens alone, as CrossMAE
``plain``          a linear layer or an MLP, on every visible token or on a summary of them
``prototypes``     a decoder, and a head of prototypes for its tokens and the class token
``label_head``     a class head on the mean of the visible tokens
=================  =====================================================================
"""

from __future__ import annotations

from mvd_ds.config import HeadShape
from mvd_ds.models.readouts.cross import CrossDecoder, decoder_kind
from mvd_ds.models.readouts.decoder import Decoder
from mvd_ds.models.readouts.label_head import LabelHead
from mvd_ds.models.readouts.plain import SummaryReadout, TokenReadout
from mvd_ds.models.readouts.prototypes import PrototypeReadout
from mvd_ds.models.readouts.readout import Readout

__all__ = ["READOUTS", "CrossDecoder", "Decoder", "LabelHead", "Readout", "readout_of"]

READOUTS: dict[str, type[Readout]] = {
    "decoder": Decoder,
    "cross": CrossDecoder,
    "tokens": TokenReadout,
    "summary": SummaryReadout,
    "labels": LabelHead,
    "prototypes": PrototypeReadout,
}
"""Every kind of readout by name."""


def readout_of(shape: HeadShape) -> type[Readout]:
    """Return the kind of readout that predicts what a target asks for."""
    if shape.prototypes is not None:
        return READOUTS["prototypes"]
    if shape.tokens == "summary":
        return READOUTS["summary" if shape.norm is None else "labels"]
    is_bare = shape.tokens == "visible" and not shape.decoder.depth and shape.decoder.attention == "self"
    return READOUTS["tokens"] if is_bare else decoder_kind(shape)
