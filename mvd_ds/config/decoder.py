"""Settings of the decoders that predict targets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mvd_ds.config.base import Positive, Settings


class DecoderSettings(Settings):
    """The decoder that predicts one target; every target has its own, nothing is shared."""

    embed_dim: Positive | None = None
    """Width (None: the encoder's)."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Number of blocks. Source: MVD S and B 2, L 4, H 8."""
    num_heads: Positive | None = None
    """Heads (None: the encoder's)."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width of the MLP over the decoder's width."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Stochastic depth within this decoder (None: the encoder's rate, as MVD)."""
    projection_bias: bool = True
    """Bias of the Linear from encoder to decoder width. Source: MVD and MAE yes, VideoMAE no."""
    norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Epsilon of the decoder's last norm (None: the encoder's). Source: Hugging Face's VideoMAE has 1e-5 there."""
