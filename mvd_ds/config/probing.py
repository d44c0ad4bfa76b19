"""The recipe tree of probes: which frozen networks, which heads, and how these are fitted."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import PathText, Positive, Settings, Share
from mvd_ds.config.evaluation import OneManifestRecipe, ViewSettings
from mvd_ds.config.networks.encoder import PoolingSettings
from mvd_ds.config.networks.prompts import BaseToNewSettings, PromptSettings, require_prompt_heads

#: Heads of a probe that take one vector a clip; the others take tokens.
VECTOR_HEADS = ("linear", "knn")
HeadName = (
    Literal["linear", "knn", "attentive", "vqt", "class_query", "class_queries", "deep_attentive"]
    | Literal["zero_shot", "coop", "cocoop", "metaprompt", "vpt"]
)
"""Names of all heads."""


def block_name(model: str, block: int | None) -> str:
    """Return the name of a block of a model where several are probed; None: the model's own, for its last block."""
    return model if block is None else f"{model}@{block}"


def result_name(model: str, head: str) -> str:
    """Return the name of the result of a head on a model: the model's own name for linear heads."""
    return model if head == "linear" else f"{model}:{head}"


class ProbedModel(Settings):
    """One frozen feature extractor of a probe run."""

    weights: PathText = ""
    """Model folder (``model.safetensors`` and ``config.json``), or a file or folder of any layout that ``convert`` reads. With
    ``network``: its weights, ``random`` for none; those of the folder itself for hf."""
    network: Annotated[str, Field(pattern=r"^(timm:[\w./-]+|hf:.+|(dhvt|patchconv):\w+)$")] | None = None
    """A network of another family, as ``teachers.NAME.network``; sizes are read from the network itself."""
    input_px: Positive | None = None
    """Side of the frames that it takes, resized from the clip's (None: the clip's)."""
    time: Literal["tokens", "positions", "mean"] = "tokens"
    """What trained heads see of an image network's frames. tokens: those of all frames; positions: the same with the sines and
    cosines of each frame's number added; mean: the mean over the frames at each place."""
    untrained: bool = False
    """Take only the architecture and seed of ``weights`` and leave the initial weights as they were drawn."""
    frames: Literal["all", "first", "shuffled", "reversed"] = "all"
    """all: the clip; first: its first frame repeated; shuffled: its frames in random order; reversed: played backwards."""
    every_frames: Positive = 1
    """Image networks see every n-th frame of the clip."""

    @model_validator(mode="before")
    @classmethod
    def _fill_weights(cls, values: Any) -> Any:
        network = values.get("network") if isinstance(values, dict) else None
        if isinstance(network, str) and network.startswith("hf:"):
            return {"weights": network.removeprefix("hf:"), **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> ProbedModel:
        if not self.weights:
            raise ValueError("state weights: a model folder or file" + (", or random" if self.network else ""))
        if self.untrained and self.network is not None:
            raise ValueError(f"untrained is for models of runs; for {self.network} set weights=random")
        return self


class DrawnViewSettings(Settings):
    """Views of training clips that are drawn anew, for the heads that are trained by gradient descent."""

    count: Positive = 1
    """Views drawn of every clip, by ``run.seed``; epoch e takes the e-th of them, and after the last the first again. V-JEPA 2
    draws one in each of its 20 epochs. Each is a forward of the frozen network, and counts for ``head.keep_gib``."""
    crop_area: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the frame of a crop, ratio (3/4, 4/3). Source: V-JEPA 2, 0.08 to 1."""
    flip: Share = 0.0
    """Probability of a mirror image. Source: V-JEPA 2, 0."""


class HeadSettings(Settings):
    """Training of the probe heads that are fitted by gradient descent: all but ``linear`` and ``knn``."""

    epochs: Positive = 20
    """Passes over the training clips. Source: V-JEPA, 20 for its attentive probes."""
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (5e-3, 1e-3, 3e-4, 1e-4)
    """Rates to choose from. All are trained in the same pass; each seed takes the best on its selection share."""
    weight_decay: Annotated[float, Field(ge=0)] | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = 0.01
    """Weight decay of AdamW, or several to choose from, each with every rate. Source: V-JEPA, 0.01; V-JEPA 2, four."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd: with momentum 0.9, as CoOp, CoCoOp and MetaPrompt."""
    together: Positive = 20
    """Heads that are computed side by side, for which a GPU must hold the activations. Results do not depend on the number of
    processes, which share these groups among them."""
    blocks: Positive = 4
    """Blocks of a deep_attentive head, the last of which has the query. Source: V-JEPA 2, 4."""
    heads: Positive | None = None
    """Attention heads of a deep_attentive head (None: one for every 64 channels). Source: V-JEPA 2, 16 for ViT-L."""
    batch: Positive = 64
    """Clips per step."""
    queries: Positive = 1
    """Query tokens of a vqt head in each layer. Source: VQT (arXiv 2212.03220), 1 and more."""
    keep_gib: Annotated[float, Field(ge=0)] = 4.0
    """Host memory for the frozen features of a model, GiB over all processes; features that need more are computed again in
    every epoch."""

    @property
    def weight_decays(self) -> tuple[float, ...]:
        """The weight decays to choose from."""
        return self.weight_decay if isinstance(self.weight_decay, tuple) else (self.weight_decay,)


class NeighbourSettings(Settings):
    """The ``knn`` head: a vote of the nearest training clips by cosine. Source: DINO, after Wu et al. 2018."""

    count: Positive = 20
    """Neighbours that vote. Source: DINO, 20."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """A vote weighs exp(cosine / temperature). Source: DINO, 0.07."""


class DenseSettings(Settings):
    """Read-outs of ``task: dense``: ridge regressions from the tokens of a clip to arrays beside its video."""

    targets: tuple[Annotated[str, Field(pattern=r"^[\w-]+$")], ...] = ()
    """Names of arrays: ``VIDEO.NAME.npy``, or NAME in ``VIDEO.npz``, with an entry for every frame of the video. Of pixels,
    (frames, H, W) or (frames, H, W, C), each token predicts what stands at its place; of frames, (frames,) or (frames, C), the
    tokens of a moment predict it together. Floats are regressed, NaN is not known; integers are classes, -1 is not known."""
    parts: Positive = 2
    """Tokens of a moment are averaged in so many rows and columns of parts of the frame, side by side, to predict what belongs to
    the whole frame; 1: their mean, in which a linear map finds no place."""
    penalties: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        1e-6,
        1e-5,
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
    )
    """Strengths of the L2 penalty on standardised tokens, for each token that is fitted on, to choose from."""
    pictures: Annotated[int, Field(ge=0)] = 4
    """Held-out clips whose predictions are drawn beside the truth."""


class ProbeRecipe(OneManifestRecipe):
    """Probes of frozen features: of every label of the manifest by linear and other heads, or of arrays beside the videos."""

    objective: Literal["probe"]
    """Probe frozen features."""
    task: Literal["labels", "dense"] = "labels"
    """labels: a class of each clip, by ``heads``; dense: a value or a class of each token, as ``dense`` says."""
    dense: DenseSettings = DenseSettings()
    """Read-outs of ``task: dense``."""
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
    heads: tuple[HeadName, ...] = ("linear",)
    """linear: logistic regression on one vector a clip; knn: its nearest neighbours; attentive: cross-attention pooling of all
    tokens and a linear layer; vqt: visual query tuning, queries in every layer and a linear layer on what all of them give;
    class_query: pooling attention of fine-tuning, one head; class_queries: the same with a query for each class;
    deep_attentive: self-attention blocks over the patch tokens before the one with the query, V-JEPA 2's probe; zero_shot: the
    names of classes by the text tower of a student that has learnt from captions, nothing is fitted; coop, cocoop, metaprompt:
    learned vectors that stand among those names, and in the last in the encoder, too; vpt: learned vectors in the encoder alone
    and a linear layer. Trained prompts are kept in ``prompts/``; ``classify`` and ``evaluate`` take them for weights."""
    blocks: Literal["last", "all"] | tuple[int, ...] = "last"
    """Blocks that are probed, from 0 or from the end; ``all`` is a curve over depth, which tells what ``target.blocks`` to learn
    from. Their tokens pass the final norm, as those of the last one and as ``target.norm: final`` takes them (by default targets
    are taken before it); results are named ``MODEL@BLOCK``."""
    views: ViewSettings | None = None
    """Clips and crops of a video (None: one clip from its start or over its length, the middle square). A head sees the tokens
    of all segments together; it is fitted on the middle crop of the segments, and the softmaxes of the crops of held-out videos
    are averaged. Heads of prompts see and learn from every segment alone, and the softmaxes of all views are averaged. Source:
    V-JEPA 2, 2 x 3 on Something-Something, 8 x 3 on Kinetics."""
    order: tuple[Literal["reversed", "shuffled"], ...] = ()
    """Tests of the sense of time: for each of these, probes of all ``heads`` learn to tell clips from the same ones played
    backwards, or with frames in random order (half of the answers are right without a sense of order); and the probes of the
    labels answer for held-out clips that are played so."""
    drawn: DrawnViewSettings | None = None
    """Training clips of the trained heads as drawn views: another start, crop and mirror image (None: always the same clip, as
    those held out). The clips that choose among heads stay as they are."""
    head: HeadSettings = HeadSettings()
    """Training of all heads but linear, knn and zero_shot."""
    prompt: PromptSettings = PromptSettings()
    """The heads coop, cocoop, metaprompt and vpt, and the words of zero_shot."""
    base_to_new: BaseToNewSettings | None = None
    """Fit on one half of the classes, and ask for both (None: fit on all of them). Every label is then two in the results, ``what
    base`` and ``what new``, and the harmonic mean of both stands beside them."""
    neighbours: NeighbourSettings = NeighbourSettings()
    """The knn head."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs whose accuracies are compared, with a paired bootstrap interval: models, or ``MODEL:HEAD`` for other heads than
    linear."""
    pooling: PoolingSettings = PoolingSettings()
    """Pooling of the tokens after the encoder's final norm into one vector."""
    pixels: bool = True
    """Also probe raw pixels: the clip as 8 slots of 12 x 12 grey means."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of the split that chooses the regularisation, and of the fit."""
    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training clips on which each model picks its regularisation."""
    regularisations: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
        10.0,
    )
    """Inverse strengths C of the L2 penalty to choose from."""
    bootstrap_draws: Positive = 2000
    """Resamples of the held-out clips for 95 % intervals."""
    batch: Positive = 64
    """Clips per forward, of networks and of heads; it is no part of a head's step."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """bf16: products of networks and trained heads in bf16 (autocast); weights of heads and losses are fp32 in both."""
    timeout_minutes: Positive = 60
    """Processes wait for the slowest of them this long."""

    def views_of(self, held_out: bool) -> ViewSettings:
        """Return the views of the training clips, one crop, or of those held out."""
        views = self.views or ViewSettings()
        return views if held_out else ViewSettings(segments=views.segments)

    @model_validator(mode="after")
    def _check_blocks(self) -> ProbeRecipe:
        if self.blocks != "last" and "vqt" in self.heads:
            raise ValueError("blocks: vqt looks into all layers at once; remove it from heads, or take blocks: last")
        require_prompt_heads(self, VECTOR_HEADS)
        if isinstance(self.blocks, tuple) and len(set(self.blocks)) != max(len(self.blocks), 1):
            raise ValueError("blocks: give at least one, and each once")
        return self

    @model_validator(mode="after")
    def _check_order(self) -> ProbeRecipe:
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"order {list(self.order)}: give each once")
        if self.order and self.data.clip.frames < 2:
            raise ValueError("order: a clip of one frame has none; set data.clip.frames to 2 or more")
        return self

    @model_validator(mode="after")
    def _check_drawn(self) -> ProbeRecipe:
        if self.drawn is not None and not set(self.heads) - set(VECTOR_HEADS):
            raise ValueError(f"drawn is for trained heads, which heads {list(self.heads)} are not: leave it out")
        return self

    @model_validator(mode="after")
    def _check_dense(self) -> ProbeRecipe:
        if self.task != "dense":
            if self.dense != DenseSettings():
                raise ValueError("dense says what read-outs of task: dense predict; set task=dense, too")
            return self
        if not self.dense.targets or len(set(self.dense.targets)) < len(self.dense.targets):
            raise ValueError("dense.targets: name at least one array beside the videos, and each once")
        fields = type(self).model_fields
        odd = [key for key in ("heads", "views", "pooling", "head") if getattr(self, key) != fields[key].default]
        if odd:
            raise ValueError(f"{odd[0]} is for probes of labels; read-outs of task: dense take all tokens of one clip; remove it")
        for name, model in self.models.items():
            if model.frames == "shuffled" or model.time != "tokens":
                key = "frames shuffled" if model.frames == "shuffled" else f"time {model.time}"
                raise ValueError(f"models.{name}.{key}: each token is compared with what stands at its place and time; remove it")
        return self

    @property
    def result_names(self) -> set[str]:
        """The names of all results; blocks of networks, which are not known yet, are left out of ``MODEL@BLOCK``."""
        heads = self.heads if self.task == "labels" else ("linear",)
        known = {result_name(model, head) for head in heads for model in self.models}
        return known | {result_name("pixels", head) for head in heads if self.pixels and head in VECTOR_HEADS}

    @model_validator(mode="after")
    def _check(self) -> ProbeRecipe:
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise ValueError("heads: give at least one, and each once")
        if odd := [name for name in self.models if ":" in name or (self.pixels and name == "pixels")]:
            raise ValueError(f"models.{odd[0]}: results have names such as MODEL:HEAD and pixels; choose another name")
        known, plain_too = self.result_names, self.task == "dense"  # the block that a read-out chooses has its model's name
        for name in (name for pair in self.compare for name in pair):
            plain = name if self.blocks == "last" else re.sub(r"@\d+(?=:|$)", "", name)
            unnamed = self.blocks != "last" and plain == name and not (plain_too or name.startswith("pixels"))
            if plain not in known or unnamed:
                raise ValueError(f"compare names '{name}', which is not among {', '.join(sorted(known))}")
        return self
