"""Settings of the decoders that predict targets."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from mvd_ds.config.base import Positive, Settings
from mvd_ds.config.networks.encoder import EncoderSettings, position_fault


class DecoderSizes(NamedTuple):
    """The sizes of a decoder behind its encoder, which gives what the decoder's settings leave open."""

    width: int
    heads: int
    drop_path: float
    norm_eps: float


class DecoderSettings(Settings):
    """The decoder that predicts one target; every target has its own, nothing is shared."""

    embed_dim: Positive | None = None
    """Width (None: the encoder's)."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Number of blocks. Source: MVD S and B 2, L 4, H 8."""
    hidden: Positive | None = None
    """Width of the hidden layer of a head without blocks: depth 0 on visible tokens, or a summary (None: a linear layer)."""
    num_heads: Positive | None = None
    """Heads (None: the encoder's)."""
    attention: Literal["self", "cross"] = "self"
    """self: mask tokens and visible tokens look at each other, as published; cross: mask tokens look at visible tokens alone,
    never at each other, so that M masked and V visible tokens cost M * V scores a block, not (M + V)^2. Source: CrossMAE."""
    levels: Literal["last", "blocks", "blocks_and_embedding"] = "last"
    """cross: what its blocks look at. last: the encoder's output; blocks: each at a learned mixture of the outputs of all the
    encoder's blocks; blocks_and_embedding: of those and of the embedded patches. Source: CrossMAE, blocks."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width of the MLP over the decoder's width."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Stochastic depth within this decoder (None: the encoder's rate, as MVD)."""
    projection_bias: bool = True
    """Bias of the Linear from encoder to decoder width. Source: MVD and MAE yes, VideoMAE no."""
    norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Epsilon of the decoder's last norm (None: the encoder's). Source: Hugging Face's VideoMAE has 1e-5 there."""

    def sizes(self, encoder: EncoderSettings) -> DecoderSizes:
        """Return its sizes behind ``encoder``; what is None follows that."""
        return DecoderSizes(
            self.embed_dim or encoder.embed_dim,
            self.num_heads or encoder.num_heads,
            encoder.drop_path if self.drop_path is None else self.drop_path,
            self.norm_eps or encoder.norm_eps,
        )

    def fault(self, encoder: EncoderSettings, setting: str = "decoder") -> str | None:
        """Return why it cannot stand behind ``encoder``, whose heads or positions do not divide its width, or None.

        Args:
            encoder: the encoder.
            setting: the setting that has it.
        """
        width, heads, *_ = self.sizes(encoder)
        if width % heads:
            return f"{setting}.embed_dim {width} is not divisible by {setting}.num_heads {heads}"
        fault = position_fault(encoder.position, width, heads)
        return fault and f"position {encoder.position} needs {setting}.embed_dim {fault}"

    @model_validator(mode="after")
    def _check_levels(self) -> DecoderSettings:
        if self.levels != "last" and self.attention != "cross":
            raise ValueError(f"decoder.levels {self.levels} is for decoder.attention cross, not {self.attention}")
        if self.attention == "cross" and not self.depth:
            raise ValueError("decoder.attention cross needs decoder.depth 1 or more")
        return self
