"""Settings of clips: where they come from, what is cut out, what is masked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mvd_ds.config.base import Positive, Settings, Share


class ClipSettings(Settings):
    """What is cut out of a video. An image is a one-frame clip."""

    frames: Positive = 16
    """T, frames of a clip."""
    stride_frames: Positive = 4
    """Frames from one sampled frame to the next (dense sampling). Source: MVD pretraining, 4."""
    size_px: Positive = 224
    """H = W of the clip, pixels."""
    sampling: Literal["dense", "uniform"] = "dense"
    """dense: consecutive strided frames from a random start; uniform: one random frame in each of T equal segments."""
    crop: Literal["multiscale", "random_resized", "center"] = "multiscale"
    """multiscale: MVD's corner-and-centre crops; random_resized: area (0.2, 1), ratio (3/4, 4/3), as MAE; center: short
    side resized to size_px, then the middle."""
    flip: Share = 0.0
    """Probability of a horizontal flip. Source: 0 in MVD and VideoMAE pretraining, 0.5 in MAE."""


#: Of pixels in [0, 1], by colour. Source: ImageNet, as MAE, VideoMAE and MVD use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PreprocessingSettings(Settings):
    """How a classifier wants its clips; it stands in its folder, so that no recipe is needed to use it."""

    clip: ClipSettings = ClipSettings()
    """Frames, stride, sampling and size that it was trained on. Crop and flip are those of the training, not of a test."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Taken off pixels in [0, 1], by colour."""
    std: tuple[float, float, float] = IMAGENET_STD
    """What they are divided by then."""


class DataSettings(Settings):
    """Where videos come from and how they are read."""

    manifest: str = Field(default="data/train.txt", min_length=1)
    """Manifest file (``path label ...`` a line) or a folder of videos or images."""
    root: str | None = None
    """Folder that manifest paths are relative to (None: the manifest's own folder)."""
    reader: Literal["auto", "decord", "pyav"] = "auto"
    """auto: decord, but PyAV for files on which decord lies or hangs (edit lists, AV1, ...)."""
    clip: ClipSettings = ClipSettings()
    """What is cut out of each video."""
    clips_per_video: Positive = 1
    """R clips cut from one decoded video (repeated sampling). Batches count clips, so R divides the micro batch."""
    workers: Annotated[int, Field(ge=0)] = 8
    """Loader processes per training process (0: decode in the training process)."""
    prefetch_batches: Positive = 4
    """Batches each worker keeps ready."""
    max_bad_share: Share = 0.05
    """More undecodable videos than this share of those asked for stops the run on all ranks."""
    stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    """A loader that gives no batch for this long ends the run, naming the files being read."""


class MaskingSettings(Settings):
    """Which tokens the student does not see. True = masked, everywhere."""

    kind: Literal["tube", "random"] = "tube"
    """tube: one spatial mask repeated over time; random: over all tokens."""
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """Share of tokens hidden; the count is int(ratio * tokens of one slot (tube) or of the clip (random))."""
    masks_per_clip: Positive = 1
    """K masks that share one decode and one teacher pass."""
