"""The recipe trees for a finished network: tests of classifiers, probes, features of videos."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import PathText, Positive, Settings
from mvd_ds.config.networks.encoder import PoolingSettings
from mvd_ds.config.recipes import Recipe

#: Heads of a probe that take one vector a clip; the others take tokens.
VECTOR_HEADS = ("linear", "knn")


def result_name(model: str, head: str) -> str:
    """Return the name of the result of a head on a model: the model's own name for linear heads."""
    return model if head == "linear" else f"{model}:{head}"


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
    """Test a classifier."""
    weights: PathText
    """Model folder of a fine-tuned classifier, or a classifier in any format that ``convert`` reads."""
    format: str | None = None
    """Format of ``weights`` where its content does not tell, mvd_finetuned for example."""
    text_vectors: PathText | None = None
    """File of a teacher's text vectors, for ``weights`` of ``export --adaptors``: a zero-shot test on the classes it names."""
    adaptor: str | None = None
    """Summary adaptor in whose space the text vectors are (None: the only one of their width)."""
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
    confused_pairs: Annotated[int, Field(ge=0)] = 20
    """Pairs of classes in the table of the most confused ones."""
    pictures_per_pair: Annotated[int, Field(ge=0)] = 3
    """Videos shown for each of them, by their middle frame."""
    timeout_minutes: Positive = 60
    """Ranks wait for the slowest of them this long."""

    @model_validator(mode="after")
    def _check_text_vectors(self) -> EvaluateRecipe:
        if self.adaptor is not None and self.text_vectors is None:
            raise ValueError(f"adaptor {self.adaptor} says in whose space text vectors are: set text_vectors, too")
        return self


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
        if self.adaptor is not None and self.pooling != PoolingSettings():
            raise ValueError(f"pooling: the tokens of adaptor {self.adaptor} are averaged; remove pooling")
        return self


class ProbedModel(Settings):
    """One frozen feature extractor of a probe run."""

    weights: PathText
    """Model folder (``model.safetensors`` and ``config.json``)."""
    untrained: bool = False
    """Take only the architecture and seed of ``weights`` and leave the initial weights as they were drawn."""
    frames: Literal["all", "first", "shuffled"] = "all"
    """all: the clip; first: its first frame repeated; shuffled: its frames in random order."""
    every_frames: Positive = 1
    """Image networks see every n-th frame of the clip."""


class HeadSettings(Settings):
    """Training of the probe heads that are fitted by gradient descent: all but ``linear`` and ``knn``."""

    epochs: Positive = 20
    """Passes over the training clips. Source: V-JEPA, 20 for its attentive probes."""
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = (5e-3, 1e-3, 3e-4, 1e-4)
    """Rates to choose from. All are trained in the same pass; each seed takes the best on its selection share."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW. Source: V-JEPA, 0.01."""
    batch: Positive = 64
    """Clips per step."""
    queries: Positive = 1
    """Query tokens of a vqt head in each layer. Source: VQT (arXiv 2212.03220), 1 and more."""
    keep_gib: Annotated[float, Field(ge=0)] = 4.0
    """Host memory for frozen features, GiB; features that need more are computed again in every epoch."""


class NeighbourSettings(Settings):
    """The ``knn`` head: a vote of the nearest training clips by cosine. Source: DINO, after Wu et al. 2018."""

    count: Positive = 20
    """Neighbours that vote. Source: DINO, 20."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """A vote weighs exp(cosine / temperature). Source: DINO, 0.07."""


class ProbeRecipe(OneManifestRecipe):
    """Probes of frozen features, one per label of the manifest: linear ones, and other heads."""

    objective: Literal["probe"]
    """Probe frozen features."""
    models: dict[str, ProbedModel]
    """Models that are probed, by name; all see the same clips and the same splits."""
    validation_manifest: PathText | None = None
    """Held-out clips, never used to choose anything (None: ``held_out_share`` of the manifest)."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the manifest's clips held out where there is no validation manifest, drawn from ``run.seed``."""
    most_clips: Positive | None = None
    """At most so many clips to fit on, and as many held out, drawn from ``run.seed`` (None: all), for a first look."""
    labels: Literal["required", "optional"] = "required"
    """required: every label of the manifest is probed; optional: those that show at least two classes, if any."""
    heads: tuple[Literal["linear", "knn", "attentive", "vqt", "class_query", "class_queries"], ...] = ("linear",)
    """linear: logistic regression on one vector a clip; knn: its nearest neighbours; attentive: cross-attention pooling of all
    tokens and a linear layer; vqt: visual query tuning, queries in every layer and a linear layer on what all of them give;
    class_query: pooling attention of fine-tuning, one head; class_queries: the same with a query for each class."""
    head: HeadSettings = HeadSettings()
    """Training of all heads but linear and knn."""
    neighbours: NeighbourSettings = NeighbourSettings()
    """The knn head."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs whose accuracies are compared, with a paired bootstrap interval: models, or ``MODEL:HEAD`` for other heads than
    linear."""
    pooling: PoolingSettings = PoolingSettings()
    """Pooling of the tokens after the encoder's final norm into one vector."""
    pixels: bool = True
    """Also probe raw pixels: the clip as 8 slots of 12 x 12 grey means."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the split that chooses the regularisation, and of the fit."""
    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training clips on which each model picks its regularisation."""
    regularisations: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Inverse strengths C of the L2 penalty to choose from."""
    bootstrap_draws: Positive = 2000
    """Resamples of the held-out clips for 95 % intervals."""
    batch: Positive = 64
    """Clips per forward."""

    @model_validator(mode="after")
    def _check(self) -> ProbeRecipe:
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise ValueError("heads: give at least one, and each once")
        known = {result_name(model, head) for head in self.heads for model in self.models}
        known |= {result_name("pixels", head) for head in self.heads if self.pixels and head in VECTOR_HEADS}
        for name in (name for pair in self.compare for name in pair):
            if name not in known:
                raise ValueError(f"compare names '{name}', which is not among {', '.join(sorted(known))}")
        return self
