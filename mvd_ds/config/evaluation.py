"""The recipe trees of what is done with a finished network: a test of a classifier, features of videos."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mvd_ds.config.base import Positive, Settings
from mvd_ds.config.model import PoolingSettings
from mvd_ds.config.recipes import Recipe


class ViewSettings(Settings):
    """Which clips of a video are looked at; always the same ones. Source: MVD 2.3, 5 x 3 on Kinetics, 2 x 3 on SSv2."""

    segments: Positive = 1
    """Clips along the video: evenly spaced (dense sampling) or interleaved (uniform); one is the middle one."""
    crops: Positive = 1
    """Squares along the long side of the frame, end to end; one is the middle one."""

    @property
    def count(self) -> int:
        """Views of a video."""
        return self.segments * self.crops


class EvaluateRecipe(Recipe):
    """A test of a classifier on labelled videos. What ``data.clip`` does not say is as the classifier was trained."""

    objective: Literal["evaluate"]
    """Test a classifier."""
    weights: str = Field(min_length=1)
    """Model folder of a fine-tuned classifier, or a classifier in any format that ``convert`` reads."""
    format: str | None = None
    """Format of ``weights`` where its content does not tell, mvd_finetuned for example."""
    label: str | None = None
    """Label of the manifest (None: the one the classifier was trained for, or the only one)."""
    views: ViewSettings = ViewSettings()
    """Views of a video; their softmaxes are averaged."""
    batch: Positive = 16
    """Clips per forward and process."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Of weights and activations; probabilities are fp32 in both."""
    calibration_bins: Positive = 15
    """Bins of equal width of the expected calibration error. Source: Guo et al. 2017 (arXiv 1706.04599), 15."""
    confused_pairs: Annotated[int, Field(ge=0)] = 20
    """Pairs of classes in the table of the most confused ones."""
    pictures_per_pair: Annotated[int, Field(ge=0)] = 3
    """Videos shown for each of them, by their middle frame."""
    timeout_minutes: Positive = 60
    """Ranks wait for the slowest of them this long."""


class FeaturesRecipe(Recipe):
    """Features of every video of a manifest, in files with an index."""

    objective: Literal["features"]
    """Write features."""
    weights: str = Field(min_length=1)
    """Model folder or file in any format that ``convert`` reads."""
    format: str | None = None
    """Format of ``weights`` where its content does not tell."""
    layer: int = -1
    """Block after which features are taken: 0 the first, -1 the last, after which the final norm is applied."""
    tokens: bool = False
    """Keep every patch token, (N, D) a clip, instead of one vector."""
    pooling: PoolingSettings = PoolingSettings()
    """How tokens become one vector."""
    views: ViewSettings = ViewSettings()
    """Clips of a video; features have an axis for them where there are several."""
    every_frames: Positive = 1
    """Image networks see every n-th frame of a clip; their features are means over frames, or tokens of all frames."""
    file_format: Literal["safetensors", "npy"] = "safetensors"
    """Of the files; both hold one array, in the order of the manifest."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers in them."""
    videos_per_file: Positive | None = None
    """A file is the smallest piece of work: what is whole when a run is interrupted is not made again. None: 4096, or 32 with
    tokens (150 MB of ViT-B at 16 x 224 x 224)."""
    batch: Positive = 16
    """Clips per forward and process."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Of weights and activations."""
    timeout_minutes: Positive = 60
    """Ranks wait for the slowest of them this long."""
