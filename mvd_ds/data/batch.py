"""The batches that travel from the data room to the training step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mvd_ds.config import ClipView, OwnClip


class ClipBatch(NamedTuple):
    """One micro batch of B clips with K masks each. ``mask`` polarity: ``masked`` tokens are hidden from the student."""

    views: dict[ClipView, Tensor]
    """Side in pixels -> uint8 (B, C, T, H, W), not mirrored yet. Always holds ``data.clip.size_px``; other sizes are the same
    crop, resized, and an ``OwnClip`` shows other frames of it, too."""
    flip: Tensor
    """bool (B,), clips that the device mirrors."""
    visible: Tensor
    """int64 (B, K, V), ascending token indices; V = 0 before masks that are left to the device are drawn."""
    masked: Tensor
    """int64 (B, K, M), ascending token indices; only those that are predicted, where ``masking.decoder`` leaves some out."""
    drop_path: Tensor
    """float32 (B, K, blocks), uniforms in [0, 1) that the model compares with its rates."""
    labels: Tensor
    """int64 (B, L), labels of each clip's video; L = 0 without labels. With the recipe's ``labels`` the class for its head
    alone, -1 for a video without one."""
    sample: Tensor
    """int64 (B,), index in the manifest of the video that was used (with several manifests, counted through them)."""
    place: Tensor
    """int64 (B,), place of each clip in the stream; with the seed, the key of everything random about it."""
    faults: list[str]
    """``path: reason`` of every video that had to be replaced in this batch."""
    mask_numbers: Tensor | None = None
    """float32 (B, K, cells), random numbers of masks that are drawn on the device; None: they are drawn already."""
    mask_order: Tensor | None = None
    """float32 (B, K, N), for such masks: the tokens of least number are predicted; None: all masked ones are."""
    teacher_uniforms: Tensor | None = None
    """float32 (B, K, teachers), uniforms in [0, 1) that decide which teachers count for a sample; None: all do."""
    cached: dict[str, Tensor] | None = None
    """Targets that were kept of these views, as they are stored: output -> (B, ...), with scales; None: teachers are asked."""
    captions: Tensor | None = None
    """int64 (B, L), tokens of one caption of each clip, drawn by its key; None: the recipe has no ``language``."""
    counted: Tensor | None = None
    """float32 (B,), factor of each clip in the losses of teachers that take no pictures: 0 of a picture, else the clips of the
    step over those that are none; None: each clip counts once."""


class LabelledBatch(NamedTuple):
    """One micro batch of B clips with the label of each, and how they are mixed."""

    views: dict[ClipView, Tensor]
    """Side in pixels -> uint8 (B, C, T, H, W), neither mirrored nor mixed yet."""
    flip: Tensor
    """bool (B,), clips that the device mirrors."""
    label: Tensor
    """int64 (B,), class of each clip; uint8 (B, classes), 1 for each that it has; or float32 (B,), a standardised number."""
    partner: Tensor
    """int64 (B,), the clip of this batch that each is mixed with."""
    own_share: Tensor
    """float32 (B,), share of the clip's own label; the partner's has the rest."""
    box: Tensor
    """int64 (B, 6): first and last + 1 frame, row and column that come from the partner; all 0: pixels are blended."""
    drop_path: Tensor
    """float32 (B, 1, blocks), uniforms in [0, 1) that the model compares with its rates."""
    dropout: Tensor
    """float32 (B, D), uniforms in [0, 1) for the pooled vector."""
    sample: Tensor
    """int64 (B,), index in the manifest of the video that was used."""
    place: Tensor
    """int64 (B,), place of each clip in the stream, of which a step takes the next ``batch.global``."""
    faults: list[str]
    """``path: reason`` of every video that had to be replaced in this batch."""


def view_name(view: ClipView) -> str:
    """Return the name of the array of a view."""
    return "view_" + "_".join(map(str, view if isinstance(view, OwnClip) else [view]))
