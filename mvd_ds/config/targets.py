"""Settings of the targets that a student learns to predict."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from mvd_ds.config.base import PathText, Positive, Settings
from mvd_ds.config.losses import Loss
from mvd_ds.config.networks.decoder import DecoderSettings
from mvd_ds.config.networks.prototypes import PrototypeSettings

Scale = Literal["none", "token", "clip", "running", "phi_s"]
Tokens = Literal["masked", "visible", "all", "summary", "classed"]
#: Kinds of targets that compare tokens with one another, and so have a loss of their own.
RELATIONAL = ("relations", "token_relations")
#: Settings that only features of visible and masked tokens take, and those that a summary does not take.
_OF_VISIBLE = ("visible_weight", "visible_distance", "visible_ramp")
_OF_TOKENS = ("tokens", "mode", "normalise")


class TargetSettings(Settings):
    """One thing that a student learns from a teacher."""

    kind: Literal["features", "summary", "relations", "token_relations", "codes", "prototypes"] = "features"
    """features: the tokens of some of the teacher's blocks; summary: one vector of a clip (of an image teacher, the mean over
    the frames), predicted from the student's class token, or from the mean of its visible tokens where it has none; relations:
    the attention of one block, head by head (TinyMIM); token_relations: the cosines between the teacher's tokens, whatever the
    tokens themselves are (DINOv3's Gram anchoring); codes: the class that a frozen tokenizer gives each token (BEiT);
    prototypes: what a teacher of weights ema assigns class token and patches to (iBOT)."""
    blocks: tuple[int, ...] = (-1,)
    """Block outputs to use; -1 is the last. Source: MVD, last block."""
    mode: Literal["mean", "each", "concat"] = "mean"
    """Several blocks are averaged (mean), predicted one by one (each), or joined to one long token (concat)."""
    summary: Literal["own", "mean"] = "own"
    """own: the teacher's class token, or the attention pooling that a network ends with; of a folder of transformers that has
    neither, the mean of its tokens; mean: over its patch tokens."""
    norm: Literal["none", "final"] = "none"
    """none: before the final norm, as published; final: through the teacher's own final norm."""
    normalise: bool = False
    """LayerNorm without parameters (eps 1e-6) on every target token (``--norm_feature`` of the reference): standardise token."""
    standardise: Scale = "none"
    """Scale of the features. token: LayerNorm of every token; clip: each channel over the tokens of its clip; running: each
    channel by statistics that follow the run; phi_s: a rotation after which all channels have one variance. running and phi_s
    begin with the first ``calibration_clips`` and can be undone. Source: MVD; SMILE; UNIC; PHI-S (arXiv 2410.01680)."""
    relations: Annotated[tuple[Literal["query_key", "value_value"], ...], Field(min_length=1)] = ("query_key", "value_value")
    """relations: products whose softmax over the predicted tokens is compared by KL; losses are added. Matrices of scores take
    128 MiB at most, however many tokens there are. Source: TinyMIM, both."""
    codebook: PathText | None = None
    """codes: folder of the tokenizer that `tokenizer` learned for these very tokens: this teacher, blocks, mode and norm; or of
    the tokenizer whose own encoder this teacher is, with ``weights`` of the same folder and norm final."""
    codes: Positive | None = None
    """codes: number of codes of the tokenizer, the width of the head (None: as its folder says, which has to be there)."""
    tokens: Literal["masked", "visible", "all"] = "masked"
    """Tokens whose features are predicted. visible: with decoder.depth 0, by a linear layer or an MLP on the encoder's output,
    without mask tokens, as UMT; all: masked and visible ones, as V-JEPA 2.1."""
    visible_weight: Annotated[float, Field(ge=0.0)] = 0.5
    """tokens all: factor of the loss on visible tokens beside that on masked ones. Source: V-JEPA 2.1."""
    visible_distance: bool = True
    """tokens all: weigh a visible token by 1 / sqrt(its distance to the nearest masked one, in tokens). Source: V-JEPA 2.1."""
    visible_ramp: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)
    """tokens all: steps between which the factor grows from 0 to visible_weight. Source: V-JEPA 2.1's code, 15,000 to 30,000."""
    prototypes: PrototypeSettings = PrototypeSettings()
    """prototypes: the head and its targets."""
    loss: Loss | None = None
    """Between prediction and target (None: the teacher's; of a summary, angle over the teacher's own dispersion). Relations have
    their own."""
    weight: Annotated[float, Field(ge=0.0)] | None = None
    """Factor of this target's loss in the total (None: the teacher's)."""

    @model_validator(mode="after")
    def _check_relations(self) -> TargetSettings:
        if self.kind != "relations" and self.relations != type(self).model_fields["relations"].default:
            raise ValueError(f"relations are compared by kind relations, not {self.kind}")
        if self.kind == "relations" and len(self.blocks) > 1:
            raise ValueError(f"relations are those of one block, got blocks {list(self.blocks)}; use more_targets for others")
        if self.kind in RELATIONAL:
            taken = ("mode", *(() if self.kind == "token_relations" else ("norm",)), "normalise", "standardise", "loss")
            odd = self._stated(taken)
            if odd and not (self.kind == "token_relations" and odd == ["mode"] and self.mode == "concat"):
                raise ValueError(f"kind {self.kind} compares products of tokens: it takes no {', '.join(odd)}")
        return self

    @model_validator(mode="after")
    def _check_codes(self) -> TargetSettings:
        odd = self._stated(("codebook", "codes") if self.kind != "codes" else ("tokens", "normalise", "standardise", "loss"))
        if odd and self.kind == "codes":
            raise ValueError(f"codes are classes of masked tokens, standardised by their tokenizer: remove {', '.join(odd)}")
        if odd:
            raise ValueError(f"{', '.join(odd)} is for kind codes, not {self.kind}: remove it")
        if self.kind == "codes" and self.mode == "each":
            raise ValueError("mode each predicts several targets, and a token has one code: choose mean or concat")
        return self

    @model_validator(mode="after")
    def _check_prototypes(self) -> TargetSettings:
        if self.kind != "prototypes":
            if self.prototypes != PrototypeSettings():
                raise ValueError(f"prototypes are for kind prototypes, not {self.kind}: remove them")
            return self
        if odd := self._stated((*_OF_TOKENS, "standardise", "summary", "loss")):
            raise ValueError(f"kind prototypes compares assignments: it takes no {', '.join(odd)}")
        if self.norm != "final" or len(self.blocks) != 1:
            raise ValueError("kind prototypes needs norm final and one block: the student's head reads its encoder's output")
        return self

    @model_validator(mode="after")
    def _check_tokens(self) -> TargetSettings:
        odd = self._stated(_OF_VISIBLE)
        if odd and (self.tokens != "all" or self.kind != "features"):
            raise ValueError(f"{odd[0]} is for features of tokens all, not for {self.kind} of {self.tokens}: remove it")
        if self.visible_ramp[1] < self.visible_ramp[0]:
            raise ValueError(f"visible_ramp {list(self.visible_ramp)} ends before it begins")
        odd = self._stated(_OF_TOKENS)
        if self.kind == "summary" and (odd or len(self.blocks) != 1):
            raise ValueError(f"a summary is one vector of one block: remove {', '.join(odd) or 'all but one of blocks'}")
        return self

    @model_validator(mode="after")
    def _check_scale(self) -> TargetSettings:
        if self.normalise and self.standardise not in ("none", "token"):
            raise ValueError(
                f"normalise true is standardise token, and standardise is {self.standardise}; remove one of them "
                "(on the command line TARGET.normalise=false or TARGET.standardise=none)"
            )
        return self

    @property
    def standardised_by(self) -> Scale:
        """Name of the standardiser."""
        return "token" if self.normalise else self.standardise

    def _stated(self, keys: tuple[str, ...]) -> list[str]:
        """Return those of ``keys`` whose values are not the defaults."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]


class TargetCacheSettings(Settings):
    """The views that teachers see, and a folder that keeps what they gave. Source: Theia (arXiv 2407.20179)."""

    cache: PathText | None = None
    """Folder that ``mvd_ds cache-targets`` fills; ``distill`` reads the targets there and loads no teacher (None: teachers are
    asked in every step)."""
    crops: Positive | None = None
    """Fixed crops of a clip, moment and box, which epochs take in turn (several manifests: by chance); whether one is mirrored
    is drawn in every epoch, so that a cache holds both (None: 1 with a cache, else a new one in every epoch)."""
    store: Literal["fp32", "bf16", "fp16", "int8"] = "bf16"
    """Numbers of a new cache: fp32 is exact, int8 has a scale for each token and block; the index states the error."""
    clips_per_file: Positive = 64
    """Clips in a file of a new cache; a killed ``cache-targets`` begins its last file again."""

    @property
    def fixed_crops(self) -> int | None:
        """Number of fixed crops of a clip; None: every epoch has new ones."""
        return self.crops or (1 if self.cache is not None else None)


class LabelSettings(Settings):
    """A class head on the visible tokens, beside what is predicted. Source: SupMAE (arXiv 2205.14540)."""

    classes: Annotated[int, Field(ge=2)]
    """Number of classes of the manifests."""
    label: str | None = None
    """Label of the manifests (None: the only one of each that has any). Videos of a manifest without it, and those whose label
    is -1, add nothing to the loss."""
    weight: Annotated[float, Field(ge=0.0)] = 0.01
    """Factor of the loss in the total. Source: SupMAE."""
    temperature: Annotated[float, Field(gt=0.0)] = 10.0
    """Logits are divided by this. Source: SupMAE."""
    hidden: Positive = 3072
    """Width of the hidden layer. Source: SupMAE, for a base encoder."""
    norm: Literal["batch", "layer"] = "layer"
    """Norm of the hidden layer. batch: by the statistics of the labelled clips of one micro batch on one device, as published,
    so that another batch.micro or another number of devices is another training; layer: no layout shows."""


class PixelSettings(Settings):
    """Stage one: the target is the pixels of a masked patch."""

    normalise: Literal["per_channel", "joint", "none"] = "per_channel"
    """per_channel: VideoMAE, mean and variance of each colour of a patch; joint: MAE, over all colours; none: raw."""
    variance_floor: Annotated[float, Field(ge=0.0)] = 0.0
    """Added to the variance before the root, so that codec noise in flat patches stays small. Pixels are in [0, 1], or
    standardised by ImageNet's mean and deviation where normalise is joint."""
    loss: Loss = "l2"
    """Between prediction and pixels, in fp32, mean over all elements; or a mixture by weight, as ``teachers.NAME.loss``.
    Source: VideoMAE and MAE, L2."""


class HeadShape(NamedTuple):
    """The request of a target to the student: what to predict, for which tokens, by a decoder of which shape."""

    width: int
    """Numbers that are predicted for a token."""
    decoder: DecoderSettings = DecoderSettings()
    """Shape of the decoder."""
    tokens: Tokens = "masked"
    """Tokens that are predicted: the masked ones, the visible ones, all (masked, then visible), one summary of a sample, or the
    masked ones and then the class token (classed)."""
    norm: Literal["batch", "layer"] | None = None
    """Norm of the hidden layer of a class head; None for everything else."""
    prototypes: PrototypeSettings | None = None
    """Head of prototypes; None for everything else."""

    def predicted(self, visible: int, masked: int) -> int:
        """Return the number of tokens that are predicted of a sample with ``visible`` and ``masked`` tokens."""
        counts = {"masked": masked, "visible": visible, "all": visible + masked, "summary": 1, "classed": masked + 1}
        return counts[self.tokens]


class Output(NamedTuple):
    """Something that the student of a recipe predicts."""

    teacher: str | None
    """Name of the teacher that it is learnt from, or None for what the clip itself gives."""
    target: TargetSettings | None
    """Settings of the target, or None where there is no teacher."""
    decoder: DecoderSettings
    """Shape of its decoder."""
    norm: Literal["batch", "layer"] | None = None
    """Norm of the hidden layer of a class head; None for everything else."""

    @property
    def is_relational(self) -> bool:
        """True if it compares tokens with one another, and not each with its own target."""
        return self.target is not None and self.target.kind in RELATIONAL

    def head(self, width: int) -> HeadShape:
        """Return the request to the student, for predictions of ``width`` numbers a token."""
        if self.norm is not None or (self.target is not None and self.target.kind == "summary"):
            return HeadShape(width, self.decoder, "summary", self.norm)
        if self.target is not None and self.target.kind == "prototypes":
            return HeadShape(width, self.decoder, "classed", prototypes=self.target.prototypes)
        return HeadShape(width, self.decoder, "masked" if self.target is None else self.target.tokens)


def decoder_of(decoder: DecoderSettings, target: TargetSettings) -> DecoderSettings:
    """Return the decoder of a target: a summary has none of its blocks."""
    return decoder.model_copy(update={"depth": 0}) if target.kind == "summary" else decoder
