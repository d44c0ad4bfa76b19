"""Settings of a codebook, and of the network around it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import Positive, Settings
from mvd_ds.config.networks.encoder import EncoderSettings


class TokenEncoderSettings(EncoderSettings):
    """The blocks that the tokens of a teacher pass before they become codes, or the encoder of the clip; patch and tubelet are
    those of the token grid."""

    depth: Annotated[int, Field(ge=0)]
    """Number of blocks. 0: every token has its code by itself, and ``embed_dim`` is the width of what is read of the teacher.
    Source: BEiT v2's encoder is a whole ViT-B on pixels; on the tokens of a teacher most of that is done."""


class TokenizerSettings(Settings):
    """A codebook and how it is learned."""

    method: Literal["vq", "kmeans"] = "vq"
    """vq: codes of low dimension that follow a trained encoder by a moving average (VQ-KD, BEiT v2); kmeans: centres of the
    teacher's tokens themselves, each the mean of all that it ever got, in one pass. Source: BEiT v2 (arXiv 2208.06366); Sculley,
    WWW 2010."""
    encode: Literal["features", "pixels"] = "features"
    """What ``model`` sees. features: the tokens of a teacher; pixels: the clip itself, so that a student of the codes runs the
    tokenizer and no teacher. Source: BEiT v2 and PeCo, pixels."""
    codes: Annotated[int, Field(ge=2)] = 8192
    """Number of codes. Source: BEiT, BEiT v2, PeCo."""
    width: Annotated[int, Field(ge=2)] = 32
    """vq: channels of a code, which has length 1, so that one channel would be two codes. Source: BEiT v2. The centres of kmeans
    are as wide as the tokens."""
    standardise: Literal["channel", "none"] = "channel"
    """Scale of a teacher's tokens, here and wherever the tokenizer is used. channel: mean 0 and deviation 1 of every channel
    over the first ``calibration_clips``; none: as they are read. Source: BEiT v2, none."""
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """Moving average over steps of a code (vq) and of the share of tokens that each code gets (both). Source: BEiT v2."""
    commitment: Annotated[float, Field(ge=0.0)] = 1.0
    """vq: factor of the squared distance between the encoder's output and its code. Source: BEiT v2."""
    dead_below: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """A code whose share has fallen below this part of an even share starts again at a token of the step (0: never). BEiT v2
    leaves unused codes as they are."""
    start_tokens: Positive = 8
    """Tokens for each code, of the first ``calibration_clips``, in which k-means finds the codes to begin with."""
    start_iterations: Positive = 10
    """Iterations of that k-means. Source: BEiT v2."""
    reconstruct: Literal["features", "pixels"] = "features"
    """What ``decoder`` makes of the codes. features: the teacher's standardised tokens, by their cosine (BEiT v2); pixels: those
    of every patch, by ``pixels.loss`` (PeCo, VQ-VAE)."""
    perceptual: str | None = None
    """reconstruct pixels: name of a teacher that sees the reconstructed clip, too: its ``target.blocks`` of it are compared with
    those of the clip, by its ``loss`` and ``weight``; several blocks with ``mode: concat``, for ``mean`` is their mean. Source:
    PeCo (arXiv 2111.12710), four blocks."""

    @model_validator(mode="after")
    def _check(self) -> TokenizerSettings:
        taken = ("width", "commitment") if self.method == "kmeans" else ()
        odd = [key for key in taken if getattr(self, key) != type(self).model_fields[key].default]
        if odd:
            raise ValueError(f"method kmeans trains no encoder and has codes as wide as tokens: remove {', '.join(odd)}")
        if self.encode == "pixels" and self.method == "kmeans":
            raise ValueError("method kmeans trains no encoder, and one of pixels has to be trained: set method=vq")
        if self.perceptual is not None and self.reconstruct != "pixels":
            raise ValueError("perceptual compares reconstructed pixels: set reconstruct=pixels, or remove it")
        return self
