"""The time of a plan: seconds of arithmetic, communication, optimizer and data in a step, and what overlaps."""

from __future__ import annotations

from typing import Any, NamedTuple

from mvd_ds.config import LearningRecipe, TrainingRecipe
from mvd_ds.models.flops import ClipFlops
from mvd_ds.tools.machine.devices import CPU_ADAM_BYTES, Machine
from mvd_ds.tools.plan.memory import view_values
from mvd_ds.tools.plan.sizes import NetworkSizes, RecipeSizes, teachers_of

#: CPU milliseconds of one clip: 16 frames at stride 4 of a 340 x 256 H.264 file, scaled, and handed over. Measured on an
#: AMD EPYC core: PyAV 57.8, decord 79.1; 3 for the rest.
DECODE_MILLISECONDS = 65.0
#: Time of a teacher's forward in FP8 over that in bf16: products at twice the rate, quantisation and attention besides. Assumed.
FP8_TIME = 0.8
#: Parameters of a teacher that follows the student's average are summed in buckets: ``engine.living_teacher.BUCKET``.
FOLLOWING_BUCKET = 1 << 25
#: Memory bandwidth that one process gets for AdamW on the CPU; a rough figure.
CPU_BYTES_PER_SECOND = 20e9
#: Bandwidth of a node's disk, reading and writing, all processes together: one PCIe 4 drive by its data sheet; not measured.
NVME_BYTES_PER_SECOND = 5e9


class StepTime(NamedTuple):
    """The seconds of one optimizer step on one GPU, by part.

    Attributes:
        teachers, student, recomputation: arithmetic of each.
        optimizer: step of AdamW, bound by memory bandwidth.
        teacher_communication: gathers of sharded teachers, overlapped with their arithmetic.
        student_communication: collectives of weights and gradients while micro batches run; hidden if the engine overlaps.
        step_communication: collectives of gradients and weights at the step itself; never hidden.
        offload: transfer of states or weights across the host's link.
        copies: transfer of clips to the device.
        data: work of the loaders, overlapped with everything.
        overlaps: true if the engine overlaps communication with arithmetic.
    """

    teachers: float
    student: float
    recomputation: float
    optimizer: float
    teacher_communication: float
    student_communication: float
    step_communication: float
    offload: float
    copies: float
    data: float
    overlaps: bool

    @property
    def compute(self) -> float:
        """Return the seconds of arithmetic and optimizer."""
        return self.teachers + self.student + self.recomputation + self.optimizer

    @property
    def visible_communication(self) -> float:
        """Return the seconds of communication that arithmetic does not hide."""
        behind = self.student + self.recomputation if self.overlaps else 0.0
        student = max(self.student_communication - behind, 0.0)
        teachers = max(self.teacher_communication - self.teachers, 0.0)
        return student + teachers + self.step_communication + self.offload

    @property
    def communication(self) -> float:
        """Return all seconds of communication, hidden or not."""
        return self.teacher_communication + self.student_communication + self.step_communication + self.offload

    @property
    def device(self) -> float:
        """Return the seconds of a step that never waits for data."""
        return self.compute + self.visible_communication + self.copies

    @property
    def visible_data(self) -> float:
        """Return the seconds that the device waits for its loader."""
        return max(self.data - self.device, 0.0)

    @property
    def total(self) -> float:
        """Return the seconds of a step."""
        return self.device + self.visible_data


def plan_time(
    recipe: LearningRecipe,
    sizes: RecipeSizes,
    engine: dict[str, Any],
    teacher_engines: dict[str, dict[str, Any]],
    machine: Machine,
    gpus: int,
    decode_milliseconds: float,
) -> StepTime:
    """Return the seconds of a step, by part.

    Arithmetic: model FLOPs (``models.flops``; trained parts three times, teachers once; a recomputed block's forward once
    more) over the device's matrix rate and the share of it that a step reaches. In fp32 the rate is the device's share of it.

    Optimizer: bound by memory, over the parameters of the own shard.
    """
    accumulation = recipe.batch.accumulation_steps(gpus)
    clips = recipe.batch.micro * accumulation
    rate = machine.device.matrix_tflops * 1e12 * machine.efficiency
    if recipe.engine.precision == "fp32":
        rate *= machine.device.fp32_share
    flops = sizes.flops
    trained = flops.encoder + sum(flops.decoders.values()) + flops.language
    first, asked = _vectors_first(recipe, flops, accumulation)
    every = recipe.model.activation_checkpointing
    zero = engine["zero_optimization"]
    sharded = sizes.student.parameters / gpus
    communication = _student_communication(recipe, sizes.student, zero, machine, gpus, accumulation)
    on_host = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    on_disk = zero.get("offload_optimizer", {}).get("device") == "nvme"
    link = machine.device.host_link_gb_per_second * 1e9
    return StepTime(
        teachers=clips * sum(_teacher_flops(recipe, name, flops.teachers[name]) for name in [*flops.teachers, *asked]) / rate,
        student=clips * (3 * trained + flops.frozen_text + first) / rate,
        recomputation=clips * trained / every / rate if every else 0.0,
        optimizer=(
            CPU_ADAM_BYTES * sharded / CPU_BYTES_PER_SECOND
            if on_host
            else machine.device.adam_bytes * sharded / (machine.device.memory_gb_per_second * 1e9)
        )
        + _average_seconds(recipe, sharded, machine, on_host),
        teacher_communication=accumulation * _teacher_communication(recipe, sizes, teacher_engines, machine, gpus),
        student_communication=communication[0],
        step_communication=communication[1] + _following_seconds(recipe, sizes, zero, machine, gpus),
        # Gradients go to the host in fp32, weights come back; a disk also reads and writes masters and moments.
        offload=(6 * sharded / link if on_host else 0.0)
        + (24 * sharded * min(gpus, machine.gpus_per_node) / NVME_BYTES_PER_SECOND if on_disk else 0.0),
        copies=clips * view_values(recipe) / link,
        data=clips / loader_rate(recipe, machine, gpus, decode_milliseconds),
        overlaps=bool(zero.get("overlap_comm")),
    )


def _average_seconds(recipe: LearningRecipe, sharded: float, machine: Machine, on_host: bool) -> float:
    """Return the seconds of moving the average of the own shard: average and masters are read, the average is written, fp32."""
    if recipe.optimizer.ema_decay is None:
        return 0.0
    return 12 * sharded / (CPU_BYTES_PER_SECOND if on_host else machine.device.memory_gb_per_second * 1e9)


def _following_seconds(recipe: LearningRecipe, sizes: RecipeSizes, zero: dict[str, Any], machine: Machine, gpus: int) -> float:
    """Return the seconds of handing the average on to the teachers that are it: a sum over all, twice what a gathering takes.

    Teachers that are sharded over all as a student of stage 3 is copy their own shards, and nothing travels.
    """
    total = 0.0
    for name, teacher in sizes.teachers.items():
        settings = teachers_of(recipe)[name]
        if settings.is_ema and not (zero["stage"] == 3 and settings.placement in ("zero3", "zero3_offload")):
            size = (2 if recipe.engine.precision == "bf16" else 4) * teacher.parameters
            total += 2 * machine.collective_seconds(size, max(teacher.parameters / FOLLOWING_BUCKET, 1), gpus)
    return total


def _vectors_first(recipe: LearningRecipe, flops: ClipFlops, accumulation: int) -> tuple[int, list[str]]:
    """Return what a clip costs before the losses of captions of a step with several micro batches.

    It is a forward pass of the student for its vectors, and the teachers that draw its masks, which are asked once more.
    """
    if not isinstance(recipe, TrainingRecipe) or recipe.language is None or accumulation == 1:
        return 0, []
    seen = flops.encoder if recipe.language.sees == "visible" else 0
    return flops.language + flops.frozen_text + seen, [name for name in flops.teachers if name == recipe.masking.teacher]


def _teacher_flops(recipe: LearningRecipe, name: str, count: int) -> float:
    """Return the operations in bf16 that take as long as ``count`` operations of a teacher."""
    return count * (FP8_TIME if teachers_of(recipe)[name].fp8 else 1.0)


def loader_rate(recipe: LearningRecipe, machine: Machine, gpus: int, decode_milliseconds: float) -> float:
    """Return the clips/s that the loaders of one GPU decode, with no more workers than their share of the cores.

    Clips of one video share its decoding: R of them cost R^-0.6 of one each. Source: measured, 69.6, 48.2 and 29.8 ms a
    clip at ``data.clips_per_video`` 1, 2 and 4.
    """
    cores = machine.cores_per_node / min(gpus, machine.gpus_per_node)
    shared = recipe.data.clips_per_video**-0.6
    return min(max(recipe.data.workers, 1), cores) / (decode_milliseconds * shared / 1000)


def cores_needed(recipe: LearningRecipe, clips_per_second: float, decode_milliseconds: float) -> float:
    """Return the CPU cores that decode ``clips_per_second``."""
    return clips_per_second * decode_milliseconds * recipe.data.clips_per_video**-0.6 / 1000


def _student_communication(
    recipe: LearningRecipe, student: NetworkSizes, zero: dict[str, Any], machine: Machine, gpus: int, accumulation: int
) -> tuple[float, float]:
    """Return the seconds of collectives during the micro batches, and at the step.

    With s bytes a value and P parameters: stage 1 reduces gradients (s P) and gathers weights (s P) once a step. Stage 2
    reduces them every micro batch. Stage 3 gathers weights and reduces gradients every micro batch; where weights are not
    kept from forward to backward it gathers twice; one call a block and bucket. Source: ZeRO, Rajbhandari et al. 2020
    (arXiv 1910.02054), section 7; traces of DeepSpeed 0.19.8.
    """
    size = (2 if recipe.engine.precision == "bf16" else 4) * student.parameters
    buckets = max(student.parameters / zero["reduce_bucket_size"], 1)

    def seconds(calls: float) -> float:
        return machine.collective_seconds(size, calls, gpus)

    if zero["stage"] == 1:
        return 0.0, 2 * seconds(buckets)
    if zero["stage"] == 2:
        return accumulation * seconds(buckets), seconds(buckets)
    live = zero["stage3_max_live_parameters"] + zero["stage3_prefetch_bucket_size"]
    kept = live >= student.parameters and zero.get("stage3_max_reuse_distance", 10**9) >= 2 * student.parameters
    gathers = 1 if kept else 2
    calls = max(student.parameters / max(zero["stage3_prefetch_bucket_size"], student.block), 1)
    within = zero.get("zero_hpz_partition_size", 1)
    if gathers == 2 and within > 1:
        # Backward gathers from the copy within the host.
        gathering = seconds(calls) + machine.collective_seconds(size, calls, min(gpus, within))
    else:
        gathering = gathers * seconds(calls)
    return accumulation * (gathering + seconds(buckets)), 0.0


def _teacher_communication(
    recipe: LearningRecipe, sizes: RecipeSizes, engines: dict[str, dict[str, Any]], machine: Machine, gpus: int
) -> float:
    """Return the seconds of gathering sharded teachers for one micro batch: their weights once for every chunk of clips.

    With ``zero3_offload`` the own shard crosses the host's link first.
    """
    total = 0.0
    for name, teacher in sizes.teachers.items():
        settings = teachers_of(recipe)[name]
        if name not in engines:
            continue
        size = (2 if recipe.engine.precision == "bf16" else 4) * teacher.parameters
        chunks = -(-recipe.batch.micro // (settings.chunk_clips or recipe.batch.micro))
        bucket = max(engines[name]["zero_optimization"]["stage3_prefetch_bucket_size"], teacher.block)
        sharers = min(gpus, machine.gpus_per_node) if settings.placement == "zero3_node" else gpus
        seconds = machine.collective_seconds(size, max(teacher.parameters / bucket, 1), sharers)
        if settings.placement == "zero3_offload":
            seconds += size / gpus / (machine.device.host_link_gb_per_second * 1e9)
        if settings.placement == "zero3_nvme":
            seconds += size / gpus * min(gpus, machine.gpus_per_node) / NVME_BYTES_PER_SECOND
        total += chunks * seconds
    return total
