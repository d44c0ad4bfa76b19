"""Settings of a run and its optimization: folder, batch, optimizer, schedule, engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mvd_ds.config.base import PathText, Positive, Settings, Share
from mvd_ds.files import ConfigError


class RunSettings(Settings):
    """The folder of a run, its logs, checkpoints and limits."""

    output: PathText = "runs/{recipe}"
    """Folder of the run; ``{recipe}`` stands for the recipe's name, other braces for themselves."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initial weights, order, crops, masks and drop path."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on from the newest checkpoint in ``output``; never: refuse a folder that holds one."""
    accept_changed: tuple[str, ...] = ()
    """Settings whose files may have other contents than when the run began, ``[teachers.video.weights]`` for example: the run
    goes on with the new ones and says so. Without it such a run stops."""
    log_every_steps: Positive = 10
    """Optimizer steps between two lines of metrics; losses stay on the device in between."""
    writers: tuple[str, ...] = ("tensorboard",)
    """Where metrics go beside ``metrics.jsonl``: tensorboard, wandb, mlflow. The last two need their packages, and take server
    and project from those packages' environment variables."""
    save_every_steps: Positive = 1000
    """Optimizer steps between checkpoints. One is written at the end too."""
    keep_last: Positive = 2
    """Newest checkpoints that are kept: when the newest turns out damaged, the one before is taken."""
    keep_every_steps: Positive | None = None
    """Every checkpoint whose step is a multiple of this is kept too (None: only the newest)."""
    features_every_steps: Annotated[int, Field(ge=0)] = 100
    """Steps between measurements of target variance and effective rank (0: never)."""
    collapse_share: Share = 0.1
    """Say so in a line when the effective rank of features, the variance of targets, or the use of prototypes that is measured
    then falls below this share of the largest value since the run was started or resumed (0: never)."""
    pictures_every_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps between pictures of the network's predictions on a few clips, in TensorBoard, ``pictures/`` and the report; there
    are some at the end, too (0: never). Of ``finetune``: what the queries of pooling attention look at."""
    picture_clips: Positive = 4
    """Number of clips shown, the same under the same masks every time: the first video of each class of ``picture_manifest``,
    then each second one; without labels its first videos."""
    picture_manifest: PathText | None = None
    """Manifest of held-out videos to look at, and to probe on (None: the training manifest, the first of several)."""
    probe_every_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps between probes of the features where that manifest has labels: ``probe/LABEL_top1``, the vote of nearest
    neighbours (0: never). Labels are not learnt from. Not for ``finetune``."""
    probe_clips: Annotated[int, Field(ge=2)] = 256
    """Number of clips, of so few classes that each has some 25; kept in host memory: 616 MB over all processes at
    16 x 224 x 224."""
    stop_after_steps: Positive | None = None
    """End cleanly after this optimizer step, with a checkpoint; the schedule keeps its length, and a resume goes on."""
    slow_rank_ratio: Annotated[float, Field(gt=1)] = 1.3
    """Own time of a process (loader and computation, without waiting for others) over that of the median process from which
    on it is named as slow; the middle of five log steps counts."""
    stop_before_seconds: Annotated[float, Field(gt=0)] | None = None
    """Time limit of the job, seconds after its processes began: it saves and ends twice the last save's time earlier. Its
    first step is saved, too, so that this time is known."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """A loss or gradient that is not finite on any rank: skip the step on all, or stop. Both tell and write a dump."""
    nonfinite_limit: Annotated[int, Field(ge=0)] = 10
    """More skipped steps than this in one attempt stop the run."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=10)] = 5.0
    """Seconds between two heartbeats of a rank."""
    log_mib: Positive = 64
    """Size at which a rank's log is moved to ``.1`` and begun anew, MiB."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where there is one."""
    deterministic: bool = False
    """Ask torch for deterministic kernels (slower on a GPU; the CPU path is deterministic anyway)."""


class BatchSettings(Settings):
    """Batch sizes count clips, whatever the number of masks per clip is."""

    micro: Positive = 8
    """Clips per process and forward."""
    global_: Positive = Field(default=1024, alias="global")
    """Clips per optimizer step, over all processes and accumulation steps."""

    @model_validator(mode="after")
    def _check(self) -> BatchSettings:
        if self.global_ % self.micro:
            raise ValueError(f"global {self.global_} is not divisible by micro {self.micro}")
        return self

    def accumulation_steps(self, world: int) -> int:
        """Return the micro batches per process and optimizer step on ``world`` processes.

        Raises:
            ConfigError: if micro * world does not divide the global batch.
        """
        if self.global_ % (self.micro * world):
            raise ConfigError(
                f"batch.global {self.global_} is not divisible by batch.micro {self.micro} x {world} processes; "
                f"choose batch.micro from the divisors of {self.global_}/{world}, or another number of processes"
            )
        return self.global_ // (self.micro * world)

    def admissible_processes(self, available: int) -> int:
        """Return the largest number of processes, up to ``available``, that divides the batch into micro batches."""
        return next(world for world in range(available, 0, -1) if self.global_ % (self.micro * world) == 0)


class OptimizerSettings(Settings):
    """AdamW. Source: MVD 1.5, VideoMAE."""

    base_lr: Annotated[float, Field(gt=0)] = 1.5e-4
    """Peak learning rate per 256 clips of global batch."""
    min_base_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Learning rate per 256 clips at the end of the cosine."""
    lr_counts: Literal["clips", "student_samples", "videos"] = "clips"
    """Quantity that the learning rate grows with: clips of the global batch, clips x masks per clip, or clips / clips per
    video."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of the first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Number added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of matrices and mask tokens, not of biases, norms and other vectors. Source: MVD, mask tokens are decayed."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """The encoder's block i of L (from 0) learns at layer_decay^(L - i) times the rate, embeddings at ^(L + 1), the rest at the
    rate itself. Source: BEiT; MVD's fine-tuning, 0.75."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 0.0
    """Largest gradient norm (0: no clipping, as published)."""
    ema_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Keep an exponential moving average of the weights with this decay per step, saved and exported too (None: none). It is what
    teachers with ``weights: ema`` are; at 1 it stays what the run began with. Source: iBOT 0.996, V-JEPA 2 0.99925."""
    ema_decay_end: Annotated[float, Field(gt=0, le=1)] | None = None
    """The decay goes from ``ema_decay`` to this along half a cosine over the run (None: it is constant). Source: iBOT, 1."""

    @model_validator(mode="after")
    def _check_average(self) -> OptimizerSettings:
        if self.ema_decay_end is not None and self.ema_decay is None:
            raise ValueError("ema_decay_end is where ema_decay goes: state ema_decay, or remove it")
        return self


class ScheduleSettings(Settings):
    """Linear warm-up from 0, then cosine, set at every optimizer step."""

    epochs: Positive | None = None
    """Length of the cosine in epochs. Exactly one of epochs and steps is given."""
    steps: Positive | None = None
    """Length of the cosine in optimizer steps."""
    stop_after_epochs: Positive | None = None
    """End here although the cosine is longer (the published 400-epoch runs use a cosine of 401)."""
    warmup_epochs: Annotated[int, Field(ge=0)] | None = None
    """Length of the warm-up in epochs; at most one of warmup_epochs and warmup_steps, none means none."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Length of the warm-up in optimizer steps."""

    @model_validator(mode="after")
    def _check(self) -> ScheduleSettings:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps, and set the other to null")
        if self.warmup_epochs is not None and self.warmup_steps is not None:
            raise ValueError("give one of warmup_epochs and warmup_steps, not both")
        if self.stop_after_epochs is not None and (self.epochs is None or self.stop_after_epochs > self.epochs):
            raise ValueError("stop_after_epochs needs epochs, and cannot be larger")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of the whole cosine."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def last_step(self, steps_per_epoch: int) -> int:
        """Return the optimizer step after which training ends."""
        return self.stop_after_epochs * steps_per_epoch if self.stop_after_epochs else self.total_steps(steps_per_epoch)

    def warmup(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of the warm-up."""
        return self.warmup_steps if self.warmup_steps is not None else (self.warmup_epochs or 0) * steps_per_epoch


class EngineSettings(Settings):
    """Settings of the DeepSpeed engine of the student."""

    config: PathText = "zero3.json"
    """DeepSpeed JSON: a path, or a name in ds_configs/. It owns ZeRO, offload, buckets and communication."""
    teacher_config: PathText = "teacher_zero3.json"
    """DeepSpeed JSON of the teachers that are not replicated."""
    build: Literal["auto", "whole", "streamed"] = "auto"
    """whole: every process builds the fp32 model, then it is sharded; streamed: module by module into shards, for models
    that no host holds once per process; auto: streamed above 1e9 parameters. The values are the same."""
    nvme_folder: PathText | None = None
    """Folder on a disk of each node, for shards that the JSON or a teacher's placement puts on NVMe."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights and activations on the device; master weights, losses and targets are fp32 in both."""
    compile: Literal["auto", "blocks", "never"] = "auto"
    """blocks: torch.compile for transformer blocks, one graph for each kind, checked against eager blocks before the first
    step; what fails is told, and runs eagerly; auto: on GPUs, where it takes a minute once; never: torch's kernels one by one."""
    timeout_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes without progress on a rank after which the run ends on all ranks, with their stacks written."""
