"""Settings of encoders, and of the pooling of their tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import Grid, PathText, Positive, Settings

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
#: The same of the width of a head, for each kind of rotary position.
ROTARY_DIVISORS = {"rope3d": 2, "rope3d_vjepa2": 2, "rope2d": 4}
#: Positions that an image encoder may have.
IMAGE_POSITIONS = ("sincos2d", "learned", "rope2d", "rope3d", "rope3d_vjepa2")
#: Narrowest head that has a pair of channels for each of three axes.
NARROWEST_ROTARY_HEAD = 6

_VJEPA2 = {
    "kind": "video",
    "patch_px": 16,
    "tubelet_frames": 2,
    "position": "rope3d_vjepa2",
    "qkv_bias": "full",
    "cls_token": False,
    "norm_eps": 1e-6,
    "final_norm": True,
    "norm": "layernorm",
    "mlp": "gelu",
    "registers": 0,
    "layer_scale": None,
    "qk_norm": "none",
}
#: What ``network_style`` fills in. Source: V-JEPA 2 (16 px patches, tubelets of 2 frames, rotary positions, biases of queries,
#: keys and values, pre-norm blocks with GELU, a norm at the end); 2.1 has the usual order of frequencies and places that are
#: counted on a 16 x 16 grid whatever the picture's.
NETWORK_STYLES: dict[str, dict[str, Any]] = {
    "vjepa2": _VJEPA2,
    "vjepa2_1": _VJEPA2 | {"position": "rope3d", "rope_side": 16},
}
#: Sizes of a style that are not those of ``ENCODER_SIZES``. Source: V-JEPA 2 (giant), 2.1 (gigantic).
STYLE_SIZES: dict[str, dict[str, float]] = {
    "giant": {"embed_dim": 1408, "depth": 40, "num_heads": 22, "mlp_ratio": 48 / 11},
    "gigantic": {"embed_dim": 1664, "depth": 48, "num_heads": 26, "mlp_ratio": 64 / 13},
}


def _filled(values: Any) -> Any:
    """Return ``values`` with what its style and its named size fill in where it is not given."""
    if not isinstance(values, dict):
        return values
    style = values.get("network_style")
    if isinstance(style, str):
        values = {**NETWORK_STYLES.get(style, {}), **values}
    if isinstance(values.get("size"), str):
        sizes = ENCODER_SIZES | (STYLE_SIZES if style else {})
        if values["size"] not in sizes:
            raise ValueError(f"size '{values['size']}' is not known; sizes are {', '.join(sizes)}")
        values = {**sizes[values["size"]], **values}
    return values


def position_fault(position: str, width: int, heads: int) -> str | None:
    """Return why tokens of ``width`` channels in ``heads`` heads cannot have a kind of position, or None."""
    if position in POSITION_DIVISORS:
        divisor = POSITION_DIVISORS[position]
        return f"divisible by {divisor}, got {width}" if width % divisor else None
    divisor, head = ROTARY_DIVISORS[position], width // heads
    if head % divisor or head < NARROWEST_ROTARY_HEAD:
        return (
            f"of {NARROWEST_ROTARY_HEAD} channels or more in every head, divisible by {divisor}; got {width} / {heads} = {head}"
        )
    return None


class EncoderSettings(Settings):
    """A Vision Transformer over video (``video``) or single frames (``image``)."""

    kind: Literal["video", "image"] = "video"
    """video: tokens are tubelets; image: every frame is a token grid of its own."""
    network_style: Literal["vjepa2", "vjepa2_1"] | None = None
    """Fills what is not given with a family's choices: patch_px, tubelet_frames, position, qkv_bias, norm, mlp, norm_eps. Its
    initial weights stay those of VideoMAE. Source: V-JEPA 2 and 2.1."""
    size: str | None = None
    """tiny, small, base, large or huge (giant, gigantic with a network_style): fills embed_dim, depth and num_heads where they
    are not given."""
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
    position: Literal["sincos3d", "sinusoid1d", "sincos2d", "learned", "rope3d", "rope3d_vjepa2", "rope2d"] = "sincos3d"
    """sincos3d: MVD student; sinusoid1d: VideoMAE, over the flat token index; sincos2d: MAE, in a frame; learned: a weight;
    rope3d: rotary over time, rows and columns; rope3d_vjepa2: the same in the order of V-JEPA 2's weights; rope2d: DINOv3."""
    rope_side: Annotated[int, Field(ge=2)] | None = None
    """Rotary rows and columns count from 0 to this minus 1 on every grid (None: cell by cell). Source: V-JEPA 2.1, 16."""
    qkv_bias: Literal["query_value", "full"] = "query_value"
    """query_value: no key bias, as BEiT, VideoMAE and MVD; full: as timm and MAE."""
    cls_token: bool = False
    """Prepend a class token (MAE image encoders). It never is a target."""
    registers: Annotated[int, Field(ge=0)] = 0
    """Learned tokens behind the class token that see everything and are read by nobody. Source: DINOv2 and DINOv3, 4."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Norm of blocks, and after the last one; decoders of cross-attention keep layernorm and gelu. Source: LLaMA and
    InternVideo2, rmsnorm."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of the blocks; swiglu has three matrices, so that mlp_ratio 8/3 costs what 4 costs with gelu. Source: DINOv3 (H+)."""
    qk_norm: Literal["none", "head", "width"] = "none"
    """Norm of queries and keys over the channels of each head, or over all. Source: ViT-22B, head; InternVideo2, width."""
    layer_scale: Annotated[float, Field(gt=0)] | None = None
    """First value of a learned factor for each channel of every branch (None: no factors). Source: DINOv2, InternVideo2 1e-5."""
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Epsilon of every norm. Source: MAE, VideoMAE and MVD 1e-6; Hugging Face's configs say 1e-12."""
    final_norm: bool = True
    """Norm after the last block. Source: all but fine-tuned VideoMAE and MVD, which norm the pooled token instead."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Stochastic depth of the last block, linear from 0 at the first."""
    attention: Literal["auto", "flash_attn", "sdpa", "eager"] = "auto"
    """Attention kernel; one that is named never falls back silently."""
    activation_checkpointing: Annotated[int, Field(ge=0)] = 0
    """0: keep activations; 1: recompute every block in backward; n: every n-th block."""

    _fill_size = model_validator(mode="before")(_filled)

    @model_validator(mode="after")
    def _check(self) -> EncoderSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        fault = position_fault(self.position, self.embed_dim, self.num_heads)
        if fault:
            raise ValueError(f"position {self.position} needs embed_dim {fault}")
        if self.kind == "image" and (self.tubelet_frames != 1 or self.position not in IMAGE_POSITIONS):
            raise ValueError(f"an image encoder has tubelet_frames 1 and position {', '.join(IMAGE_POSITIONS)}")
        if self.kind == "video" and self.position in ("sincos2d", "rope2d"):
            raise ValueError("a video encoder has position sincos3d or sinusoid1d (or learned, rope3d, rope3d_vjepa2)")
        if self.rope_side is not None and self.position not in ("rope3d", "rope3d_vjepa2"):
            raise ValueError(f"rope_side is for position rope3d and rope3d_vjepa2, not for {self.position}")
        return self

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens in front of those of the grid: class token and registers."""
        return self.cls_token + self.registers

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


class InitSettings(Settings):
    """Pretrained weights that a training starts from, so that it goes on where another one ended: on videos of your own, say."""

    weights: PathText
    """Folder or file, in any layout that ``convert`` reads; its encoder must be that of ``model``, and starts as it is there."""
    decoders: bool = False
    """Decoders of the same name start as they are there, too: ``pixels`` of a VideoMAE or MAE whose stage one goes on."""


class PoolingSettings(Settings):
    """Pooling of the tokens of a clip into one vector. ``pooling: NAME`` is short for ``pooling: {kind: NAME}``."""

    kind: Literal["mean", "cls", "max", "gem", "ggem", "attention"] = "mean"
    """mean, max: over the patch tokens; cls: the class token; gem: generalised mean, (mean of max(x, eps)^p)^(1/p) in fp32,
    one exponent p; ggem: the same with an exponent for each group of channels. Source: GeM, Radenovic et al. 2018
    (arXiv 1711.02512); GGeM, Ko et al. 2022 (arXiv 2212.04114); attention: a learned query gathers them in one head, then an MLP,
    of which the report shows the map. Source: PatchConvNet (arXiv 2112.13692). The class token is in none but cls."""
    exponent: Annotated[float, Field(ge=1.0)] = 3.0
    """p to start from; learned where the network is trained, fixed in probes of frozen features. Source: GeM, 3."""
    eps: Annotated[float, Field(gt=0.0)] = 1e-6
    """Floor of a channel before the power: negative channels count as this. Source: GeM, 1e-6."""
    clamp: bool = True
    """False leaves the floor out, for networks without negative channels: p = 1 is then the mean."""
    groups: Positive | None = None
    """Groups of neighbouring channels of ggem (None: as many as attention heads). Source: GGeM, the heads."""
    queries: Literal["one", "class"] = "one"
    """attention: one query for all classes, or one for each of them, with a map of its own. Source: PatchConvNet, both."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """attention: blocks whose tokens are gathered, by one block of attention each and from first to last: 0 the first block, -1
    the last. Source: VideoGLUE's pooler of several layers, which has several heads."""
    layer_scale: Annotated[float, Field(gt=0.0)] = 1e-4
    """attention: first value of the learned factors of its two branches. Source: PatchConvNet, 1e-4, 1e-6 for large networks."""
    place: Literal["before_norm", "after_norm"] = "before_norm"
    """In a classifier: before its norm, where MVD and VideoMAE take the mean, or after it, applied to every token. Probes
    pool the tokens after the encoder's final norm."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _check_layers(self) -> PoolingSettings:
        if self.kind != "attention" and self.layers != (-1,):
            raise ValueError(f"pooling.layers are gathered by pooling attention; {self.kind} is of the last block alone")
        return self

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
