"""Settings of the targets that a student learns to predict."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from mvd_ds.config.base import Settings
from mvd_ds.config.decoder import DecoderSettings
from mvd_ds.config.losses import Loss

Tokens = Literal["masked", "visible", "all", "summary"]
#: Kinds of targets that compare tokens with one another, and so have a loss of their own.
RELATIONAL = ("relations", "token_relations")


class TargetSettings(Settings):
    """One thing that a student learns from a teacher."""

    kind: Literal["features", "relations", "token_relations"] = "features"
    """features: the tokens of some of the teacher's blocks; relations: the attention of one block, head by head (TinyMIM);
    token_relations: the cosines between the teacher's tokens, whatever the tokens themselves are (DINOv3's Gram anchoring)."""
    blocks: tuple[int, ...] = (-1,)
    """Block outputs to use; -1 is the last. Source: MVD, last block."""
    mode: Literal["mean", "each", "concat"] = "mean"
    """Several blocks are averaged (mean), predicted one by one (each), or joined to one long token (concat)."""
    norm: Literal["none", "final"] = "none"
    """none: before the final norm, as published; final: through the teacher's own final norm."""
    normalise: bool = False
    """LayerNorm without parameters (eps 1e-6) on every target token (``--norm_feature`` of the reference)."""
    relations: Annotated[tuple[Literal["query_key", "value_value"], ...], Field(min_length=1)] = ("query_key", "value_value")
    """relations: products whose softmax over the predicted tokens is compared by KL; losses are added. Source: TinyMIM, both."""
    loss: Loss | None = None
    """Between prediction and target (None: the teacher's)."""
    weight: Annotated[float, Field(ge=0.0)] | None = None
    """Factor of this target's loss in the total (None: the teacher's)."""

    @model_validator(mode="after")
    def _check_relations(self) -> TargetSettings:
        if self.kind != "relations" and self.relations != type(self).model_fields["relations"].default:
            raise ValueError(f"relations are compared by kind relations, not {self.kind}")
        if self.kind == "relations" and len(self.blocks) > 1:
            raise ValueError(f"relations are those of one block, got blocks {list(self.blocks)}; use more_targets for others")
        if self.kind in RELATIONAL:
            taken = ("mode", "normalise", "loss") if self.kind == "token_relations" else ("mode", "norm", "normalise", "loss")
            odd = [key for key in taken if getattr(self, key) != type(self).model_fields[key].default]
            if odd and not (self.kind == "token_relations" and odd == ["mode"] and self.mode == "concat"):
                raise ValueError(f"kind {self.kind} compares products of tokens: it takes no {', '.join(odd)}")
        return self


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


class Output(NamedTuple):
    """Something that the student of a recipe predicts."""

    teacher: str | None
    """Name of the teacher that it is learnt from, or None for what the clip itself gives."""
    target: TargetSettings | None
    """Settings of the target, or None where there is no teacher."""
    decoder: DecoderSettings
    """Shape of its decoder."""


class HeadShape(NamedTuple):
    """The request of a target to the student: what to predict, for which tokens, by a decoder of which shape."""

    width: int
    """Numbers that are predicted for a token."""
    decoder: DecoderSettings = DecoderSettings()
    """Shape of the decoder."""
    tokens: Tokens = "masked"
    """Tokens that are predicted: the masked ones, the visible ones, all (masked, then visible), or one summary of a sample."""
