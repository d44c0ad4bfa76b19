"""Settings of frozen teachers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from mvd_ds.config.base import PathText, Positive
from mvd_ds.config.data import ClipSettings, ClipView, OwnClip
from mvd_ds.config.losses import Loss
from mvd_ds.config.networks.decoder import DecoderSettings
from mvd_ds.config.networks.encoder import EncoderSettings
from mvd_ds.config.networks.frame_networks import FRAME_NETWORKS, with_frame_sizes
from mvd_ds.config.networks.hf_folder import SIZE_NAMES, find_folder, stated_sizes
from mvd_ds.config.targets import TargetSettings
from mvd_ds.files import ConfigError

#: Name of the attention that each token gets among what a teacher gives, beside the names of outputs.
ATTENTION = "attention"
#: In place of a path of weights: the moving average of the student's own, which follows it step by step.
EMA = "ema"


class TeacherSettings(EncoderSettings):
    """A frozen teacher: its network, its weights, its placement, and the features that are learnt from it."""

    weights: PathText
    """Folder or file: ours, MAE, VideoMAE, MVD, Hugging Face, a ZeRO checkpoint; ``random`` teaches noise; ``ema`` is the moving
    average of the student's encoder (``optimizer.ema_decay``), of the student's own architecture, which is not stated."""
    network: Annotated[str, Field(pattern=r"^(timm:[\w./-]+|hf:.+|(dhvt|patchconv|dvae):\w+)$")] | None = None
    """``timm:NAME``: an image network of timm; state embed_dim and patch_px (the stride of its features) beside it.
    ``hf:FOLDER``, or a name in the Hugging Face cache of the user: a network of images or videos of transformers; its sizes are
    read from its config.json, and ``weights`` are its own if none are stated. Nothing is downloaded. ``dhvt:NAME``,
    ``patchconv:NAME``, ``dvae:dalle``: networks of ``frame_networks.FRAME_NETWORKS``, with weights in their published layout."""
    feature_grid: tuple[Positive, Positive] | None = None
    """(h, w) of a timm network's features where it is not input_px / patch_px."""
    input_mean: tuple[float, float, float] | None = None
    """Mean of the pixels that a network of timm or transformers expects (None: what timm or the folder's processor states)."""
    input_std: tuple[float, float, float] | None = None
    """Their standard deviation (None: what timm or the folder's processor states)."""
    placement: Literal["replicated", "zero3", "zero3_node", "zero3_offload", "zero3_nvme"] = "replicated"
    """replicated: whole on every device; zero3: sharded over all; zero3_node: over the devices of each host; zero3_offload:
    as zero3, shards in pinned host memory; zero3_nvme: shards on a disk in ``engine.nvme_folder``."""
    input_px: Positive | None = None
    """Side of the teacher's view, resized from the same crop (None: the student's)."""
    input_frames: Positive | None = None
    """Frames of a video teacher's clip (None: the student's); ``time`` says where other ones come from."""
    input_stride: Annotated[float, Field(gt=0)] | None = None
    """With ``time: own_clip``: from one of its frames to the next, in frames, or in seconds where data.clip states seconds (None:
    so that its clip lasts as long as the student's)."""
    time: Literal["nearest", "linear", "own_clip"] | None = None
    """Where frames come from that the student's clip does not have. nearest, linear: of its frames, repeated or left out, or
    mixed; own_clip: the loader reads them, from the same moment and crop. Features are then read at the middles of the student's
    slots, linear in time."""
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
    """The first thing that is learnt from it; its decoder, loss and metrics have the teacher's name."""
    more_targets: dict[str, TargetSettings] = Field(default_factory=dict)
    """More that is learnt from the same pass, by name: KEY has a decoder, a loss and metrics named TEACHER_KEY."""
    decoder: DecoderSettings | None = None
    """Shape of the decoders of its targets (None: the recipe's ``decoder``)."""
    loss: Loss = "smooth_l1"
    """Between prediction and target, in fp32, mean over all elements; or a mixture by weight: ``{cosine: 0.9, smooth_l1: 0.1}``.
    Source: MVD, smooth L1 with beta 1; UNIC 0.5 cosine + 0.5 smooth L1; Theia 0.9 cosine + 0.1 smooth L1."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of this teacher's loss in the total."""
    _attention_blocks: tuple[int, ...] | Literal["all"] = PrivateAttr(())

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("network"), str):
            return values
        if values["network"].startswith("hf:"):
            return _with_sizes(values, values["network"].removeprefix("hf:"))
        family, _, name = values["network"].partition(":")
        if family in FRAME_NETWORKS:
            return with_frame_sizes(values, family, name)
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
        if self.fp8 and (self.network is not None or self.placement != "replicated"):
            where = f"placement {self.placement}" if self.network is None else f"network {self.network}"
            raise ValueError(f"fp8 is for our own networks with placement replicated, not for {where}")
        norms = {target.norm for target in self.targets.values() if target.kind != "relations"}
        if (
            self.network is not None
            and self.hf_name is None
            and any(target.kind == "relations" for target in self.targets.values())
        ):
            raise ValueError(
                f"target.kind relations reads queries, keys and values, which {self.network} does not give; take one of our own "
                "networks, or kind token_relations"
            )
        for suffix, target in self.targets.items():
            key = f"more_targets.{suffix[1:]}" if suffix else "target"
            gives_codes = self.network is not None and self.network.startswith("dvae:")
            if target.kind == "codes" and (self.fp8 or (target.codebook is None and not gives_codes)):
                raise ValueError(f"{key}.kind codes needs {key}.codebook, the folder of a tokenizer, and fp8: false")
            if target.codebook is None and target.codes not in (None, self.embed_dim):
                raise ValueError(f"{key}.codes {target.codes}: {self.network} has {self.embed_dim}: remove it")
            if target.kind == "summary" and target.summary == "own" and self.network is None and not self.cls_token:
                raise ValueError(f"{key}.kind summary: this network has no class token; set {key}.summary=mean")
        if len(norms) > 1:
            raise ValueError("target.norm and the norm of all more_targets must be one: the network is read once")
        if "final" in norms and not self.final_norm:
            raise ValueError("target.norm final needs a network with final_norm")
        if self.network is None:
            for key in ("feature_grid", "input_mean", "input_std"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is for teachers of timm and transformers; state network, or remove it")
        return self

    def view_of(self, clip: ClipSettings) -> ClipView:
        """Return the view of a clip that this teacher sees."""
        size_px = self.input_px or clip.size_px
        return OwnClip(size_px, self.input_frames or clip.frames, self.time_step(clip)) if self.time == "own_clip" else size_px

    def time_step(self, clip: ClipSettings) -> float:
        """Return the time from one of its frames to the next, in that of the student's clip."""
        if self.input_stride is not None:
            return self.input_stride / (clip.stride_seconds or clip.stride_frames)
        return clip.frames / (self.input_frames or clip.frames)

    def check_time(self, clip: ClipSettings) -> None:
        """Refuse frames that no setting says the origin of.

        Raises:
            ValueError: in one line, with what to set.
        """
        frames = self.input_frames or clip.frames
        stated = [key for key in ("input_frames", "input_stride", "time") if getattr(self, key) is not None]
        if stated and self.kind == "image":
            raise ValueError(f"an image teacher sees one frame of each of the student's tubelets: remove {', '.join(stated)}")
        if frames != clip.frames and self.time is None:
            raise ValueError(
                f"input_frames {frames} differs from the student's {clip.frames}; choose time: own_clip, which reads them, or "
                "time: nearest or linear, which makes them of the student's"
            )
        if self.input_stride is not None and self.time != "own_clip":
            raise ValueError("input_stride needs time: own_clip")
        if self.time is not None and frames == clip.frames and self.input_stride is None:
            raise ValueError(f"time {self.time}: its clip is the student's; state input_frames, or remove it")
        if self.time == "own_clip" and clip.frames == 1:
            raise ValueError("time own_clip: the student's clip is one frame")
        if frames * self.time_step(clip) < clip.frames - 1e-6:
            share = frames * self.time_step(clip) / clip.frames
            raise ValueError(f"its clip lasts {share:.2f} of the student's: raise input_frames or input_stride")

    @property
    def targets(self) -> dict[str, TargetSettings]:
        """Its targets, by what follows the teacher's name in the name of the output: "" for ``target``."""
        return {"": self.target, **{f"_{key}": target for key, target in self.more_targets.items()}}

    def give_attention(self, blocks: tuple[int, ...] | Literal["all"]) -> None:
        """Have it give the attention rows of ``blocks`` beside its targets, which the masks of its recipe are drawn from."""
        self._attention_blocks = blocks

    @property
    def gives_attention(self) -> bool:
        """Return whether it gives attention rows beside its targets."""
        return bool(self._attention_blocks)

    def attention_blocks(self, count: int) -> tuple[int, ...]:
        """Return the blocks, ascending, whose attention rows it gives, of a network of ``count`` blocks.

        Raises:
            ConfigError: if the network does not have a block.
        """
        if self._attention_blocks == "all":
            return tuple(range(count))
        for block in self._attention_blocks:
            if not -count <= block < count:
                raise ConfigError(f"masking.blocks: {block} is outside masking.teacher, a network of {count} blocks")
        return tuple(sorted({block % count for block in self._attention_blocks}))

    @property
    def timm_name(self) -> str | None:
        """Name of the network in timm, or None."""
        return self._name_in("timm:")

    @property
    def hf_name(self) -> str | None:
        """Folder or name of a network of transformers, or None."""
        return self._name_in("hf:")

    def _name_in(self, family: str) -> str | None:
        return self.network.removeprefix(family) if self.network and self.network.startswith(family) else None

    def frame_grid(self, size_px: int) -> tuple[int, int]:
        """Return (h, w) of the features of one frame of side ``size_px``.

        Raises:
            ValueError: if the patch does not divide the frame.
        """
        return self.feature_grid or self.grid(1, size_px)[1:]

    @property
    def is_random(self) -> bool:
        return self.weights == "random"

    @property
    def is_ema(self) -> bool:
        return self.weights == EMA


def _with_sizes(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of a teacher of transformers with what its folder states; a recipe that states all needs no folder.

    Raises:
        ConfigError: if the folder is needed and is not there, or does not state a size.
    """
    implied: dict[str, Any] = {"weights": name, "position": "learned"}
    if not {"kind", *SIZE_NAMES} <= values.keys():
        implied |= {"tubelet_frames": 1, **stated_sizes(find_folder(name))}
    filled = {**implied, **values}
    missing = [key for key in SIZE_NAMES if key not in filled]
    if missing:
        raise ValueError(f"hf:{name}: its config.json does not state {', '.join(missing)}: state them beside it")
    return filled
