"""The recipe trees of training runs, and the base class of all recipes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mvd_ds.config.balance import require_balance, require_picture_sources
from mvd_ds.config.base import Grid, Positive, Settings
from mvd_ds.config.data import ClipView, DataSettings, MaskingSettings
from mvd_ds.config.living import require_living_teachers, with_students_sizes
from mvd_ds.config.networks.decoder import DecoderSettings
from mvd_ds.config.networks.encoder import EncoderSettings, InitSettings
from mvd_ds.config.networks.language import LANGUAGE, LanguageSettings, require_language
from mvd_ds.config.optimization import BatchSettings, EngineSettings, OptimizerSettings, RunSettings, ScheduleSettings
from mvd_ds.config.scored_masks import require_scored_masks
from mvd_ds.config.students import HasStudents, StudentSettings
from mvd_ds.config.targets import LabelSettings, Output, PixelSettings, TargetCacheSettings, Tokens, decoder_of
from mvd_ds.config.teachers import TeacherSettings


class Recipe(Settings):
    """Base of every recipe."""

    objective: str
    """Task of the run; it decides which of the recipe trees this is."""
    run: RunSettings = RunSettings()
    """Folder of the run and how it is kept."""
    data: DataSettings = DataSettings()
    """Source of the videos and how they are read."""

    @property
    def command(self) -> str:
        """The command that runs it."""
        if self.objective.endswith("_reconstruction") or self.objective == LANGUAGE:
            return "pretrain"
        return {"distillation": "distill", "classification": "finetune"}.get(self.objective, self.objective)


class LearningRecipe(Recipe):
    """Base of every recipe that trains a network with the engine."""

    model: EncoderSettings
    """The encoder that is trained."""
    batch: BatchSettings = BatchSettings()
    """Batch sizes, in clips."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW and the size of its steps."""
    schedule: ScheduleSettings
    """Length of the run, warm-up and cosine."""
    engine: EngineSettings = EngineSettings()
    """DeepSpeed's settings, and the precision."""

    @property
    def grid(self) -> Grid:
        """Token grid (t, h, w) of the encoder."""
        return self.model.grid(self.data.clip.frames, self.data.clip.size_px)

    @property
    def masks_per_clip(self) -> int:
        """Number of samples that the network sees of a clip."""
        return 1

    @property
    def clip_views(self) -> tuple[ClipView, ...]:
        """Views in which every clip is wanted, the network's own first."""
        return (self.data.clip.size_px,)

    @property
    def learning_rate(self) -> tuple[float, float]:
        """Peak and final learning rate for the global batch."""
        counted = {
            "clips": self.batch.global_,
            "student_samples": self.batch.global_ * self.masks_per_clip,
            "videos": self.batch.global_ // self.data.clips_per_video,
        }[self.optimizer.lr_counts]
        return self.optimizer.base_lr * counted / 256, self.optimizer.min_base_lr * counted / 256

    @model_validator(mode="after")
    def _check_batch(self) -> LearningRecipe:
        try:
            _ = self.grid
        except ValueError as error:
            raise ValueError(f"data.clip does not fit model: {error}") from None
        if self.batch.micro % self.data.clips_per_video:
            raise ValueError(
                f"batch.micro {self.batch.micro} is not divisible by data.clips_per_video {self.data.clips_per_video}"
            )
        require_picture_sources(self)
        return self


class TrainingRecipe(LearningRecipe, HasStudents):
    """One training run: stage one (``*_reconstruction``) or stage two (``distillation``)."""

    objective: Literal["image_reconstruction", "video_reconstruction", "distillation", "language"]
    """Stage one on images or videos, stage two, or the captions of ``language`` alone."""
    init: InitSettings | None = None
    """Weights that the student starts from (None: initial weights of ``run.seed``)."""
    masking: MaskingSettings = MaskingSettings()
    """Tokens that are hidden from the encoder."""
    decoder: DecoderSettings = DecoderSettings()
    """Shape of the decoders; each has weights of its own."""
    teachers: dict[str, TeacherSettings] = Field(default_factory=dict)
    """Stage two: any number of teachers by name; each has a decoder, a loss and metrics of that name."""
    targets: TargetCacheSettings = TargetCacheSettings()
    """Stage two: fixed views of clips, and the folder that keeps what teachers gave of them."""
    pixels: PixelSettings | None = None
    """Stage one: the pixel targets."""
    students: dict[str, StudentSettings] = Field(default_factory=dict)
    """Students by name that learn together from one pass of the teachers, each as in a run of its own. Source: DINOv3."""
    labels: LabelSettings | None = None
    """A class head beside it, which learns from clips with a label (None: none)."""
    language: LanguageSettings | None = None
    """A text tower beside it, which learns with the student from the captions of clips (None: none)."""
    balance: Literal["fixed", "loss_relative", "uncertainty"] = "fixed"
    """Scale of the teachers' losses in the total, before their weights. fixed: as they are; loss_relative: over the loss of
    always predicting the mean target; uncertainty: by a variance that is learned for each target. Source: MVD; ours; Kendall,
    Gal, Cipolla, CVPR 2018."""
    drop_teachers: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability with which a teacher does not count for a sample, unless its loss there is the largest. Source: UNIC, 0.5."""
    calibration_clips: Positive = 256
    """Clips, the first of the training order and filled up to whole steps, on which statistics of targets are estimated before
    training. 256 clips of 16 frames have 360,000 masked tokens, 280 for each of the 1,280 channels of ViT-H."""

    @model_validator(mode="before")
    @classmethod
    def _fill_living_teachers(cls, values: Any) -> Any:
        return with_students_sizes(values)

    @property
    def outputs(self) -> dict[str, Output]:
        """Everything that the student predicts, by name: what is learnt from the teachers, or ``pixels`` in stage one, then
        ``labels`` if there are any."""
        found = {}
        for name, teacher in self.teachers.items():
            for suffix, target in teacher.targets.items():
                found[name + suffix] = Output(name, target, decoder_of(teacher.decoder or self.decoder, target))
        if not self.teachers and self.objective != LANGUAGE:
            found["pixels"] = Output(None, None, self.decoder)
        if self.labels is not None:
            found["labels"] = Output(None, None, DecoderSettings(depth=0, hidden=self.labels.hidden), self.labels.norm)
        return found

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """Names of the predicted targets."""
        return tuple(self.outputs)

    @property
    def drop_path_blocks(self) -> int:
        """Uniform numbers per mask that drop path takes: one for every block of the encoder and of each decoder."""
        return self.model.depth + sum(output.decoder.depth for output in self.outputs.values())

    @property
    def masked_tokens(self) -> int:
        """M, number of hidden tokens per mask."""
        return self.masking.masked_tokens(self.grid)

    @property
    def predicted_tokens(self) -> int:
        """Number of masked tokens per mask that the decoders see and predict."""
        if self.masking.decoder == "all":
            return self.masked_tokens
        return self.masked_tokens - int(self.masking.decoder_ratio * self.masked_tokens)

    @property
    def token_counts(self) -> dict[Tokens, int]:
        """P, number of tokens of a sample that are predicted, by the value of ``HeadShape.tokens``."""
        visible = math.prod(self.grid) - self.masked_tokens
        counts: dict[Tokens, int] = {"masked": self.predicted_tokens, "visible": visible, "summary": 1}
        return counts | {"all": self.predicted_tokens + visible, "classed": self.predicted_tokens + 1}

    @property
    def local_tokens(self) -> int:
        """Number of tokens of the local crops of a clip, all of them, which the encoder sees beside it; 0 without any."""
        found = [
            output.target.prototypes for output in self.outputs.values() if output.target and output.target.kind == "prototypes"
        ]
        return sum(head.local_crops * self.grid[0] * (head.local_px // self.model.patch_px) ** 2 for head in found)

    @property
    def masks_per_clip(self) -> int:
        """K, number of masks that the student sees each clip under."""
        return self.masking.masks_per_clip

    @property
    def asked_teachers(self) -> dict[str, TeacherSettings]:
        """The teachers that are loaded and asked: none where what they gave is read from a cache."""
        return {} if self.targets.cache is not None else self.teachers

    @property
    def clip_views(self) -> tuple[ClipView, ...]:
        """The student's view, then those of asked teachers that differ."""
        seen = (self.view_of(teacher) for teacher in self.asked_teachers.values())
        return tuple(dict.fromkeys([self.data.clip.size_px, *seen]))

    def view_of(self, teacher: TeacherSettings) -> ClipView:
        """Return the view that a teacher sees."""
        return teacher.view_of(self.data.clip)

    @field_validator("teachers")
    @classmethod
    def _check_names(cls, teachers: dict[str, TeacherSettings]) -> dict[str, TeacherSettings]:
        for name in teachers:
            if not name.isidentifier():
                raise ValueError(f"teacher name '{name}' must be letters, digits and underscores")
        return teachers

    @model_validator(mode="after")
    def _check(self) -> TrainingRecipe:
        t, h, w = self.grid
        if self.masking.kind != "none" and not 0 < self.masked_tokens < t * h * w:
            raise ValueError(f"masking.ratio {self.masking.ratio} leaves no visible or no masked token on grid {(t, h, w)}")
        self._check_decoder("decoder", self.decoder)
        require_language(self)
        self._check_objective()
        require_balance(self)
        require_scored_masks(self)
        require_living_teachers(self)
        self._check_labels()
        for name, teacher in self.teachers.items():
            self._check_teacher(name, teacher)
        return self

    def _check_decoder(self, setting: str, decoder: DecoderSettings) -> None:
        if fault := decoder.fault(self.model, setting):
            raise ValueError(fault)

    def _check_objective(self) -> None:
        if self.objective == "distillation":
            if not self.teachers or self.pixels is not None:
                raise ValueError("objective distillation needs at least one entry under teachers, and no pixels")
            if self.model.kind != "video":
                raise ValueError("objective distillation trains a video student: model.kind must be video")
            return
        if self.objective == LANGUAGE:
            return
        if self.teachers or self.pixels is None or self.targets != TargetCacheSettings():
            raise ValueError(f"objective {self.objective} needs pixels, and no teachers and targets")
        wanted = self.objective.removesuffix("_reconstruction")
        if self.model.kind != wanted:
            raise ValueError(f"objective {self.objective} needs model.kind {wanted}, got {self.model.kind}")
        if self.pixels.normalise == "per_channel" and self.model.tubelet_frames * self.model.patch_px**2 == 1:
            raise ValueError("pixels.normalise per_channel needs patches of more than one pixel; choose joint or none")
        if wanted == "image" and self.data.clip.frames != 1:
            raise ValueError("objective image_reconstruction needs data.clip.frames 1: an image is a one-frame clip")

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        if "labels" in self.teachers:
            raise ValueError("teachers.labels: this name is that of the class head of labels; choose another")
        if self.labels.norm == "batch" and self.batch.micro * self.masks_per_clip < 2:
            raise ValueError("labels.norm batch needs two samples in a micro batch: raise batch.micro, or choose layer")

    def teacher_grid(self, teacher: TeacherSettings) -> Grid:
        """Return the grid (t, h, w) of a teacher's features for one clip; image teachers give one slot per student tubelet."""
        size_px = teacher.input_px or self.data.clip.size_px
        if teacher.kind == "image":
            return self.grid[0], *teacher.frame_grid(size_px)
        return teacher.grid(teacher.input_frames or self.data.clip.frames, size_px)

    def _check_teacher(self, name: str, teacher: TeacherSettings) -> None:
        try:
            teacher.check_time(self.data.clip)
            grid = self.teacher_grid(teacher)
        except ValueError as error:
            raise ValueError(f"teachers.{name}: {error}") from None
        if grid != self.grid and teacher.resize is None:
            raise ValueError(
                f"teachers.{name}: its grid {grid} differs from the student's {self.grid}; choose input_px "
                f"{self.grid[1] * teacher.patch_px} for the same grid, or resize: bilinear"
            )
        if teacher.kind == "image" and teacher.frame_in_tubelet >= self.model.tubelet_frames:
            raise ValueError(
                f"teachers.{name}.frame_in_tubelet {teacher.frame_in_tubelet} is outside the student's tubelet of "
                f"{self.model.tubelet_frames} frames"
            )
        if teacher.decoder is not None:
            self._check_decoder(f"teachers.{name}.decoder", teacher.decoder)
        for suffix, target in teacher.targets.items():
            setting = f"teachers.{name}.{f'more_targets.{suffix[1:]}' if suffix else 'target'}"
            if suffix and (name + suffix in self.teachers or not suffix[1:].isidentifier()):
                raise ValueError(f"{setting}: the name must be letters, digits and underscores, and {name + suffix} no teacher")
            if not target.blocks:
                raise ValueError(f"{setting}.blocks is empty")
            for block in target.blocks:
                if teacher.network is None and not -teacher.depth <= block < teacher.depth:
                    raise ValueError(f"{setting}.blocks: {block} is outside a network of {teacher.depth} blocks")
