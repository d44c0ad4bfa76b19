"""Settings of encoders, and of the pooling of their tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import Grid, Positive, Settings

#: Encoder sizes. Source: MVD and VideoMAE model tables (S, B, L, H); tiny is ours, for the quickstart.
ENCODER_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 128, "depth": 4, "num_heads": 4},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}

#: Divisor that a width must have for each kind of position table.
POSITION_DIVISORS = {"sincos3d": 16, "sincos2d": 4, "sinusoid1d": 2, "learned": 1}


def _with_size(values: Any) -> Any:
    """Return ``values`` with width, depth and heads of its named size filled in where not given."""
    if isinstance(values, dict) and isinstance(values.get("size"), str):
        if values["size"] not in ENCODER_SIZES:
            raise ValueError(f"size '{values['size']}' is not known; sizes are {', '.join(ENCODER_SIZES)}")
        return {**ENCODER_SIZES[values["size"]], **values}
    return values


class EncoderSettings(Settings):
    """A Vision Transformer over video (``video``) or single frames (``image``)."""

    kind: Literal["video", "image"] = "video"
    """video: tokens are tubelets; image: every frame is a token grid of its own."""
    size: str | None = None
    """tiny, small, base, large or huge: fills embed_dim, depth and num_heads where they are not given."""
    embed_dim: Positive
    """D, width of a token."""
    depth: Positive
    """Number of blocks."""
    num_heads: Positive
    """Attention heads; each is embed_dim / num_heads wide."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width of the MLP over D."""
    patch_px: Positive = 16
    """Side of a patch, pixels."""
    tubelet_frames: Positive = 2
    """Frames of a tubelet (1 for image encoders)."""
    position: Literal["sincos3d", "sinusoid1d", "sincos2d", "learned"] = "sincos3d"
    """sincos3d: MVD student; sinusoid1d: VideoMAE, over the flat token index; sincos2d: MAE, in a frame; learned: a weight."""
    qkv_bias: Literal["query_value", "full"] = "query_value"
    """query_value: no key bias, as BEiT, VideoMAE and MVD; full: as timm and MAE."""
    cls_token: bool = False
    """Prepend a class token (MAE image encoders). It never is a target."""
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Epsilon of every LayerNorm. Source: MAE, VideoMAE and MVD 1e-6; Hugging Face's configs say 1e-12."""
    final_norm: bool = True
    """LayerNorm after the last block. Source: all but fine-tuned VideoMAE and MVD, which norm the pooled token instead."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Stochastic depth of the last block, linear from 0 at the first."""
    attention: Literal["auto", "flash_attn", "sdpa", "eager"] = "auto"
    """Attention kernel; one that is named never falls back silently."""
    activation_checkpointing: Annotated[int, Field(ge=0)] = 0
    """0: keep activations; 1: recompute every block in backward; n: every n-th block."""

    _fill_size = model_validator(mode="before")(_with_size)

    @model_validator(mode="after")
    def _check(self) -> EncoderSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        divisor = POSITION_DIVISORS[self.position]
        if self.embed_dim % divisor:
            raise ValueError(f"position {self.position} needs embed_dim divisible by {divisor}, got {self.embed_dim}")
        if self.kind == "image" and (self.tubelet_frames != 1 or self.position not in ("sincos2d", "learned")):
            raise ValueError("an image encoder has tubelet_frames 1 and position sincos2d or learned")
        if self.kind == "video" and self.position == "sincos2d":
            raise ValueError("a video encoder has position sincos3d or sinusoid1d (or learned)")
        return self

    def grid(self, frames: int, size_px: int) -> Grid:
        """Return the token grid (t, h, w) of a clip of ``frames`` frames and side ``size_px``.

        Raises:
            ValueError: if tubelet or patch does not divide the clip.
        """
        if frames % self.tubelet_frames:
            raise ValueError(f"clip of {frames} frames is not divisible by tubelet_frames {self.tubelet_frames}")
        if size_px % self.patch_px:
            raise ValueError(f"clip of {size_px} px is not divisible by patch_px {self.patch_px}")
        return frames // self.tubelet_frames, size_px // self.patch_px, size_px // self.patch_px


class PoolingSettings(Settings):
    """Pooling of the tokens of a clip into one vector. ``pooling: NAME`` is short for ``pooling: {kind: NAME}``."""

    kind: Literal["mean", "cls", "max", "gem", "ggem"] = "mean"
    """mean, max: over the patch tokens; cls: the class token; gem: generalised mean, (mean of max(x, eps)^p)^(1/p) in fp32,
    one exponent p; ggem: the same with an exponent for each group of channels. Source: GeM, Radenovic et al. 2018
    (arXiv 1711.02512); GGeM, Ko et al. 2022 (arXiv 2212.04114). The class token is in none but cls."""
    exponent: Annotated[float, Field(ge=1.0)] = 3.0
    """p to start from; learned where the network is trained, fixed in probes of frozen features. Source: GeM, 3."""
    eps: Annotated[float, Field(gt=0.0)] = 1e-6
    """Floor of a channel before the power: negative channels count as this. Source: GeM, 1e-6."""
    clamp: bool = True
    """False leaves the floor out, for networks without negative channels: p = 1 is then the mean."""
    groups: Positive | None = None
    """Groups of neighbouring channels of ggem (None: as many as attention heads). Source: GGeM, the heads."""
    place: Literal["before_norm", "after_norm"] = "before_norm"
    """In a classifier: before its norm, where MVD and VideoMAE take the mean, or after it, applied to every token. Probes
    pool the tokens after the encoder's final norm."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    def groups_of(self, width: int, heads: int) -> int:
        """Return the number of exponents for tokens of ``width`` channels in ``heads`` heads; 0 for kinds without any.

        Raises:
            ValueError: if the groups do not divide the width.
        """
        if self.kind not in ("gem", "ggem"):
            return 0
        groups = 1 if self.kind == "gem" else self.groups or heads
        if width % groups:
            raise ValueError(f"pooling.groups {groups} does not divide the {width} channels of a token")
        return groups
