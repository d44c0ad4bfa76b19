"""The recipe trees for a finished network: tests of classifiers, features of videos."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import PathText, Positive, Settings
from mvd_ds.config.networks.encoder import PoolingSettings
from mvd_ds.config.recipes import Recipe


class ViewSettings(Settings):
    """The clips of a video that are looked at, always the same ones. Source: MVD 2.3, 5 x 3 on Kinetics, 2 x 3 on SSv2."""

    segments: Positive = 1
    """Clips along the video: evenly spaced (dense sampling) or interleaved (uniform); one is the middle one."""
    crops: Positive = 1
    """Squares along the long side of the frame, end to end; one is the middle one."""

    @property
    def count(self) -> int:
        """Number of views of a video."""
        return self.segments * self.crops


class OneManifestRecipe(Recipe):
    """A recipe that looks at every video of one manifest, once."""

    @model_validator(mode="after")
    def _check_manifest(self) -> OneManifestRecipe:
        if self.data.sources:
            raise ValueError("data.sources mixes manifests for training; give the one to look at as data.manifest")
        return self


class EvaluateRecipe(OneManifestRecipe):
    """A test of a classifier on labelled videos. Settings that ``data.clip`` does not state are the classifier's own."""

    objective: Literal["evaluate"]
    """Test a classifier, or a network of another task, which its folder names."""
    weights: PathText
    """Model folder of a fine-tuned classifier, a classifier in any format that ``convert`` reads, or a file of trained prompts of
    ``probe`` or ``finetune``."""
    format: str | None = None
    """Format of ``weights`` where its content does not tell, mvd_finetuned for example."""
    text_vectors: PathText | None = None
    """File of a teacher's text vectors, for ``weights`` of ``export --adaptors``: a zero-shot test on the classes it names."""
    adaptor: str | None = None
    """Summary adaptor in whose space the text vectors are (None: the only one of their width)."""
    words: PathText | None = None
    """File of the names of classes and the templates they stand in, for ``weights`` of a run with ``language``: a zero-shot test
    by its own text tower, and where the manifest has captions, retrieval of videos by them and back. For trained prompts: other
    classes than those they have learnt."""
    label: str | None = None
    """Label of the manifest (None: the one the classifier was trained for, or the only one)."""
    views: ViewSettings = ViewSettings()
    """Views of a video; their softmaxes are averaged."""
    batch: Positive = 16
    """Clips per forward and process."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Precision of weights and activations; probabilities are fp32 in both."""
    calibration_bins: Positive = 15
    """Bins of equal width of the expected calibration error. Source: Guo et al. 2017 (arXiv 1706.04599), 15."""
    bootstrap_draws: Positive = 1000
    """Resamples of the videos for the 95 % intervals of networks that tell several classes or a real number."""
    confused_pairs: Annotated[int, Field(ge=0)] = 20
    """Pairs of classes in the table of the most confused ones."""
    pictures_per_pair: Annotated[int, Field(ge=0)] = 3
    """Videos shown for each of them, by their middle frame."""
    timeout_minutes: Positive = 60
    """Ranks wait for the slowest of them this long."""

    @model_validator(mode="after")
    def _check_text_vectors(self) -> EvaluateRecipe:
        if self.words is not None and (self.text_vectors is not None or self.format is not None):
            raise ValueError(
                "words are for the folder of a run with language, or for trained prompts: remove text_vectors and format"
            )
        if self.adaptor is not None and self.text_vectors is None:
            raise ValueError(f"adaptor {self.adaptor} says in whose space text vectors are: set text_vectors, too")
        return self


class WindowSettings(Settings):
    """Features of windows along a video, for temporal localisation: a window is ``data.clip`` in its dense sampling."""

    every_frames: Positive = 4
    """Frames of the video from the start of a window to that of the next. Source: OpenTAD's feature_stride, 4 or 8 beside windows
    of 16 frames."""


class FeaturesRecipe(OneManifestRecipe):
    """Features of every video of a manifest, in files with an index.

    Settings that ``data.clip`` does not state are those of the network's training, as far as its file tells.
    """

    objective: Literal["features"]
    """Write features."""
    weights: PathText
    """Model folder or file in any format that ``convert`` reads."""
    format: str | None = None
    """Format of ``weights`` where its content does not tell."""
    layer: int = -1
    """Block after which features are taken: 0 the first, -1 the last, after which the final norm is applied."""
    adaptor: str | None = None
    """Adaptor of ``export --adaptors`` that answers in place of the encoder, in the space of its teacher (None: the encoder)."""
    tokens: bool = False
    """Keep every patch token, (N, D) a clip, instead of one vector."""
    pooling: PoolingSettings = PoolingSettings()
    """Pooling of the tokens into one vector."""
    views: ViewSettings = ViewSettings()
    """Clips of a video; features have an axis for them where there are several."""
    windows: WindowSettings | None = None
    """Write ``VIDEO.npy``, float (windows, D), for every video, as OpenTAD reads them (None: clips of ``views`` alone). A video
    without a whole window has one, which repeats its last frame; its frames are its middle square."""
    every_frames: Positive = 1
    """Image networks see every n-th frame of a clip; their features are means over frames, or tokens of all frames."""
    file_format: Literal["safetensors", "npy"] = "safetensors"
    """Format of the files; both hold one array, in the order of the manifest."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers in them."""
    videos_per_file: Positive | None = None
    """A file is the smallest piece of work: ranks take files in turn, and files that are whole when a run is interrupted are
    kept. None: 256, so that 16 ranks share 4,000 videos; or 32 with tokens (150 MB of ViT-B at 16 x 224 x 224)."""
    batch: Positive = 16
    """Clips per forward and process."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Precision of weights and activations."""
    timeout_minutes: Positive = 60
    """Ranks wait for the slowest of them this long."""

    @model_validator(mode="after")
    def _check_adaptor(self) -> FeaturesRecipe:
        if self.adaptor is not None and self.layer != -1:
            raise ValueError(f"layer {self.layer}: adaptor {self.adaptor} reads the encoder's last block; remove layer")
        if self.adaptor is not None and self.every_frames > 1:
            raise ValueError(f"every_frames {self.every_frames}: adaptor {self.adaptor} sees all frames; remove every_frames")
        if self.windows is not None and (self.tokens or self.views.count > 1):
            raise ValueError("windows give one vector each, of one view: remove tokens and views")
        if self.adaptor is not None and self.pooling != PoolingSettings():
            raise ValueError(f"pooling: the tokens of adaptor {self.adaptor} are averaged; remove pooling")
        return self
