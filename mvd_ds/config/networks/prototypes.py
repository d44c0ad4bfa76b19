"""Settings of the head that assigns tokens to prototypes, as iBOT's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import Positive, Settings, Share

Temperature = Annotated[float, Field(gt=0.0)]


class PrototypeSettings(Settings):
    """A head that turns the class token and every patch into logits over prototypes, and how the teacher's become targets."""

    outputs: Annotated[int, Field(ge=2)] = 8192
    """Number of prototypes. Source: iBOT."""
    layers: Positive = 3
    """Layers of the MLP before the prototypes. Source: iBOT."""
    hidden: Positive = 2048
    """Width of its hidden layers. Source: iBOT."""
    bottleneck: Positive = 256
    """Width of its output, which is brought to length 1. Source: iBOT."""
    student_temperature: Temperature = 0.1
    """Logits of the student are divided by this. Source: iBOT."""
    teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    """Logits of the teacher are divided by the first at the beginning, and by the second after the warm-up. Source: iBOT."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Applied steps of that warm-up, linear; 0: the second temperature from the start. Source: iBOT, 30 epochs."""
    centring: Literal["ema", "sinkhorn"] = "ema"
    """What keeps prototypes in use. ema: the mean logits of each, a moving average, are taken off; sinkhorn: the logarithm of how
    much more than its share each prototype gets is, one iteration a step, which goes on from step to step. Source: iBOT; SwAV
    and DINOv2, which iterate three times on every batch from the start: here batches of any layout give the same."""
    centre_momentum: Share = 0.9
    """Share of the centres that a step keeps. Source: iBOT."""
    frozen_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the beginning in which the prototypes themselves do not learn. Source: iBOT, 1 epoch."""
    patch_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss of hidden patches. Source: iBOT."""
    class_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss of class tokens: of each clip against those of the other clips of its video (``data.clips_per_video``,
    iBOT's global crops), or against its own where it has but one. Source: iBOT."""
    local_crops: Annotated[int, Field(ge=0)] = 0
    """Small crops of every clip whose class tokens are compared with those of all clips of its video. Source: iBOT, 10 of an
    image, so 5 of each of two clips."""
    local_px: Positive = 96
    """Their side, a multiple of the patch. Their tokens have the places of the middle of the grid. Source: iBOT."""
    local_area: tuple[Share, Share] = (0.05, 0.25)
    """Smallest and largest share of the clip's own crop that they show, all its time long. Source: iBOT, of the whole image."""

    @model_validator(mode="after")
    def _check_area(self) -> PrototypeSettings:
        if not 0 < self.local_area[0] <= self.local_area[1]:
            raise ValueError(f"local_area {list(self.local_area)}: the smallest share is above 0, and not above the largest")
        return self
