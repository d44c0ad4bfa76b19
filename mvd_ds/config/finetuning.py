"""The recipe tree of fine-tuning: a network with a class head, its augmentation, its validation, its teacher."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from mvd_ds.config.base import PathText, Positive, Settings, Share
from mvd_ds.config.networks.adaptation import AdaptationSettings
from mvd_ds.config.networks.encoder import PoolingSettings
from mvd_ds.config.networks.prompts import PromptSettings, require_prompts
from mvd_ds.config.recipes import LearningRecipe
from mvd_ds.config.tasks import CLASSES, TaskName

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class RandAugmentSettings(Settings):
    """Random operations on whole frames, the same for all frames of a clip. Source: MVD, ``rand-m7-n4-mstd0.5-inc1``."""

    operations: Positive = 4
    """Operations drawn for a clip, with replacement, from 15."""
    probability: Share = 0.5
    """Probability that each of them is applied. Source: timm."""
    magnitude: Annotated[float, Field(ge=0.0, le=10.0)] = 7.0
    """Mean strength, 0 to 10."""
    magnitude_std: Annotated[float, Field(ge=0.0)] = 0.5
    """Standard deviation of the strength."""


class ErasingSettings(Settings):
    """A box of noise, at the same place in all frames of a clip."""

    probability: Share = 0.25
    """Probability that a clip is erased. Source: MVD, VideoMAE."""
    area: tuple[Share, Share] = (0.02, 1 / 3)
    """Smallest and largest share of the frame. Source: timm."""
    ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Smallest height over width; the largest is its inverse. Source: timm."""


class MixSettings(Settings):
    """Pairs of clips mixed into one, labels alike."""

    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.8
    """Parameter of the beta distribution of a clip's own share (0: no mixup). Source: MVD, VideoMAE."""
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Parameter of the beta distribution for CutMix (0: no CutMix)."""
    probability: Share = 1.0
    """Probability that a pair is mixed at all."""
    cutmix_share: Share = 0.5
    """Share of mixed pairs that are cut rather than blended, where both are on."""
    cutmix: Literal["video", "published"] = "video"
    """video: the box is cut out of every frame; published: MVD's and VideoMAE v2's code, which takes the box's rows for frames
    and its columns for rows, and changes no pixel in 60 % of the cases though the labels change."""


class AugmentationSettings(Settings):
    """Augmentation of training clips besides crop and flip (``data.clip``)."""

    rand_augment: RandAugmentSettings | None = None
    """Operations on frames before the crop (None: none)."""
    erasing: ErasingSettings | None = None
    """A box of noise after the crop (None: none)."""
    mix: MixSettings | None = None
    """Mixup and CutMix (None: none). Pairs are neighbours in the order of the epoch: every layout mixes the same ones."""


class ValidationSettings(Settings):
    """Accuracy on held-out videos while training: one view, middle of the video, middle crop, every video once."""

    manifest: PathText | None = None
    """Manifest or folder with the same classes (None: nothing is validated)."""
    root: PathText | None = None
    """Folder that its paths are relative to (None: the manifest's own)."""
    share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training videos of each class that is held out where ``manifest`` is not given, the same videos for every
    seed; ``held_out.txt`` in the run's folder lists them (0: none)."""
    every_epochs: Positive = 1
    """Epochs between two validations; the end of the run is always validated."""
    batch: Positive | None = None
    """Clips per process and forward (None: ``batch.micro``)."""


class LogitTeacherSettings(Settings):
    """A larger fine-tuned network whose logits are learnt beside the labels."""

    weights: PathText
    """Folder of a fine-tuned classifier of the same classes and clips."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Logits of both are divided by this; the loss is multiplied by its square. Source: Hinton et al. 2015."""
    weight: Share = 0.5
    """Share of the teacher's loss in the total; labels have the rest."""
    placement: Literal["replicated", "zero3", "zero3_offload"] = "replicated"
    """replicated: whole on every device; zero3: sharded over all; zero3_offload: sharded, shards in host memory."""


class FinetuneRecipe(LearningRecipe):
    """One fine-tuning run: encoder, pooling and a linear head, trained together on one label."""

    objective: Literal["classification"]
    """Fine-tune a classifier, or a network that tells several classes or a real number (``task``)."""
    task: TaskName = CLASSES
    """What the label says. classes: one class of a video, cross entropy and top-1; multilabel: any number of classes
    (``path 3,7,12``, ``path -``), binary cross entropy and mAP; regression: a real number (``path 0.37``), standardised by the
    training labels, MAE, Spearman's correlation and R2."""
    regression_loss: Literal["smooth_l1", "mse"] = "smooth_l1"
    """Loss of task regression, of standardised numbers. smooth_l1: squared up to one standard deviation, absolute beyond, so
    that a few odd labels move little; mse: squared."""
    fit: bool = False
    """Fit what neither the recipe nor the command line states to what is there: network and clip to ``weights``, batch, epochs
    and the floor of the learning rate to the number of videos, loader processes and precision to the machine."""
    label: str | None = None
    """Label of the manifest that is learnt (None: it has only one)."""
    allow_empty_classes: bool = False
    """Train although a class has no video in the training manifest."""
    weights: PathText | None = None
    """Weights that the encoder starts from: a model folder, or a file in any known format (None: from scratch)."""
    keep_head: bool = False
    """Also start from the class head of ``weights``, which then has as many classes."""
    adaptation: AdaptationSettings = AdaptationSettings()
    """The part of the encoder that is trained: all, products of low rank beside its maps, or nothing; or prompts."""
    prompt: PromptSettings = PromptSettings()
    """Learned vectors of adaptation coop, cocoop, metaprompt and vpt."""
    pooling: PoolingSettings = PoolingSettings()
    """Pooling of the tokens into one vector. Source: MVD and VideoMAE, mean, no norm before it."""
    dropout: Rate = 0.0
    """Dropout rate of the pooled vector, before the head."""
    label_smoothing: Rate = 0.1
    """Probability that is spread over all classes (multilabel: over the two answers of each class); where nobody states it, 0
    for other tasks than classes. Source: MVD, VideoMAE, 0.1."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """Augmentation of training clips besides crop and flip."""
    teacher: LogitTeacherSettings | None = None
    """A fine-tuned network to learn from, too (None: labels alone)."""
    validation: ValidationSettings = ValidationSettings()
    """Accuracy while training."""

    def states(self, key: str) -> bool:
        """Return whether the recipe or the command line gives the setting ``key``, such as ``batch.global``."""
        *parents, leaf = key.split(".")
        node: Any = self
        for parent in parents:
            node = getattr(node, parent)
        return bool({leaf, f"{leaf}_"} & node.model_fields_set)

    @property
    def drop_path_blocks(self) -> int:
        """Uniform numbers per clip that drop path takes."""
        return self.model.depth

    @model_validator(mode="wrap")
    @classmethod
    def _stand_in(cls, values: Any, validate: ModelWrapValidatorHandler[FinetuneRecipe]) -> FinetuneRecipe:
        """Under ``fit``, let a size and a length stand in for those that nobody stated; they do not count as stated."""
        if not isinstance(values, dict) or values.get("fit") is not True:
            return validate(values)
        stand_ins: dict[str, dict[str, Any]] = {
            "model": {"size": "base"},
            "schedule": {"epochs": 1},
            "batch": {"global": 1024, "micro": 8},
        }
        given = {key: values.get(key) or {} for key in stand_ins}
        if not all(isinstance(group, dict) for group in given.values()):
            return validate(values)
        if {"size", "embed_dim"} & set(given["model"]):
            del stand_ins["model"]
        if {"epochs", "steps"} & set(given["schedule"]):
            del stand_ins["schedule"]
        if len({"global", "micro"} & set(given["batch"])) == 1:
            stand_ins["batch"] = dict.fromkeys(("global", "micro"), next(iter(given["batch"].values())))
        recipe = validate(values | {key: group | given[key] for key, group in stand_ins.items()})
        for key in stand_ins:
            getattr(recipe, key).model_fields_set.intersection_update(
                {"global_" if name == "global" else name for name in given[key]}
            )
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _smooth_classes_alone(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("task", CLASSES) != CLASSES:
            return {"label_smoothing": 0.0, **values}
        return values

    @model_validator(mode="after")
    def _check_task(self) -> FinetuneRecipe:
        if self.task != CLASSES and self.teacher is not None:
            raise ValueError(f"teacher gives logits of one class of many: leave it out with task {self.task}")
        if self.task != "regression" and self.regression_loss != "smooth_l1":
            raise ValueError(f"regression_loss {self.regression_loss} is for task regression, not {self.task}: remove it")
        if self.task == "regression":
            if self.label_smoothing:
                raise ValueError(f"label_smoothing {self.label_smoothing} is for classes, not task regression: set it to 0")
            if self.augmentation.mix is not None:
                raise ValueError("augmentation.mix blends classes, not real numbers: set augmentation.mix to null")
            if self.pooling.queries == "class":
                raise ValueError("pooling.queries class is a query for each class, of which task regression has none")
        return self

    @model_validator(mode="after")
    def _check(self) -> FinetuneRecipe:
        if self.model.kind != "video":
            raise ValueError("objective classification trains a video encoder: model.kind must be video")
        if self.keep_head and self.weights is None:
            raise ValueError("keep_head needs weights to take the head from")
        require_prompts(self)
        if self.adaptation.kind == "frozen" and self.model.drop_path:
            raise ValueError(f"model.drop_path {self.model.drop_path}: a frozen encoder drops nothing; set model.drop_path=0")
        pair = 2 * self.data.clips_per_video
        if self.augmentation.mix is not None and self.batch.micro % pair:
            raise ValueError(
                f"batch.micro {self.batch.micro} is not divisible by {pair} (two videos x data.clips_per_video): "
                "augmentation.mix pairs clips of two videos; choose a multiple, or set augmentation.mix to null"
            )
        return self
