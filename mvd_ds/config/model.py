"""Settings of networks: encoders, decoders, teachers and prediction targets."""

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


class TargetSettings(Settings):
    """The features of a teacher that are predicted."""

    blocks: tuple[int, ...] = (-1,)
    """Block outputs to use; -1 is the last; several are averaged. Source: MVD, last block."""
    norm: Literal["none", "final"] = "none"
    """none: before the final norm, as published; final: through the teacher's own final norm."""
    normalise: bool = False
    """LayerNorm without parameters (eps 1e-6) on every target token (``--norm_feature`` of the reference)."""


class TeacherSettings(EncoderSettings):
    """A frozen teacher: its network, its weights, its placement, and the features that are learnt from it."""

    weights: PathText
    """Folder or file: ours, MAE, VideoMAE, MVD, Hugging Face, a ZeRO checkpoint; ``random`` teaches noise."""
    network: Annotated[str, Field(pattern=r"^timm:[\w./-]+$")] | None = None
    """``timm:NAME``: an image network of timm; state embed_dim and patch_px (the stride of its features) beside it."""
    feature_grid: tuple[Positive, Positive] | None = None
    """(h, w) of a timm network's features where it is not input_px / patch_px."""
    input_mean: tuple[float, float, float] | None = None
    """Mean of the pixels that a timm network expects (None: what timm states for it)."""
    input_std: tuple[float, float, float] | None = None
    """Their standard deviation (None: what timm states for it)."""
    placement: Literal["replicated", "zero3", "zero3_node", "zero3_offload", "zero3_nvme"] = "replicated"
    """replicated: whole on every device; zero3: sharded over all; zero3_node: over the devices of each host; zero3_offload:
    as zero3, shards in pinned host memory; zero3_nvme: shards on a disk in ``engine.nvme_folder``."""
    input_px: Positive | None = None
    """Side of the teacher's view, resized from the same crop (None: the student's)."""
    frame_in_tubelet: Annotated[int, Field(ge=0)] = 0
    """Image teachers see this frame of every student tubelet. Source: MVD, the first."""
    resize: Literal["bilinear"] | None = None
    """Resize features to the student's grid where the two differ; None refuses such a pair."""
    chunk_clips: Positive | None = None
    """Clips per teacher forward (None: the whole micro batch); bounds the memory of its activations."""
    fp8: bool = False
    """Linear maps of its blocks in FP8: for devices that have it, bf16 and placement replicated. Refused where a cosine with the
    bf16 features of the first clips (means off, normed) is not above 0.999 at the 1st percentile of tokens."""
    cuda_graph: Literal["auto", "never"] = "auto"
    """auto: a replicated teacher's forward on a GPU is replayed as one CUDA graph if that is faster, measured at the first step
    (it is at small batches, and holds the memory of a forward); never: launched kernel by kernel."""
    target: TargetSettings = TargetSettings()
    """Features that are predicted."""
    loss: Literal["smooth_l1", "l1", "l2", "cosine"] = "smooth_l1"
    """Between prediction and target, in fp32, mean over all elements. Source: MVD, smooth L1 with beta 1."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of this teacher's loss in the total."""

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("network") is None:
            return values
        # What only timm knows is filled with values that mean nothing; they are written out and read back like any other.
        implied = {"kind": "image", "depth": 1, "num_heads": 1, "tubelet_frames": 1, "position": "sincos2d"}
        stated = [key for key, value in implied.items() if values.get(key, value) != value] + (
            ["size"] if values.get("size") else []
        )
        if stated:
            raise ValueError(f"a teacher of timm says itself what its {', '.join(stated)} is: remove it")
        return {**implied, **values}

    @model_validator(mode="after")
    def _check_network(self) -> TeacherSettings:
        if self.network is not None and self.placement != "replicated":
            raise ValueError(f"placement {self.placement} is for our own networks; a teacher of timm is replicated")
        if self.fp8 and (self.network is not None or self.placement != "replicated"):
            where = f"placement {self.placement}" if self.network is None else f"network {self.network}"
            raise ValueError(f"fp8 is for our own networks with placement replicated, not for {where}")
        if self.target.norm == "final" and not self.final_norm:
            raise ValueError("target.norm final needs a network with final_norm")
        if self.network is None:
            for key in ("feature_grid", "input_mean", "input_std"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is for teachers of timm; state network: timm:NAME or remove it")
        return self

    @property
    def timm_name(self) -> str | None:
        """Name of the network in timm, or None."""
        return self.network.removeprefix("timm:") if self.network else None

    def frame_grid(self, size_px: int) -> tuple[int, int]:
        """Return (h, w) of the features of one frame of side ``size_px``.

        Raises:
            ValueError: if the patch does not divide the frame.
        """
        return self.feature_grid or self.grid(1, size_px)[1:]

    @property
    def is_random(self) -> bool:
        return self.weights == "random"


class PixelSettings(Settings):
    """Stage one: the target is the pixels of a masked patch."""

    normalise: Literal["per_channel", "joint", "none"] = "per_channel"
    """per_channel: VideoMAE, mean and variance of each colour of a patch; joint: MAE, over all colours; none: raw."""
    variance_floor: Annotated[float, Field(ge=0.0)] = 0.0
    """Added to the variance before the root, so that codec noise in flat patches stays small. Pixels are in [0, 1], or
    standardised by ImageNet's mean and deviation where normalise is joint."""
    loss: Literal["smooth_l1", "l1", "l2", "cosine"] = "l2"
    """Between prediction and pixels, in fp32, mean over all elements. Source: VideoMAE and MAE, L2."""
