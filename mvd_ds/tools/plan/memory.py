"""The memory of a plan: bytes on a GPU and in a node's memory, by part."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mvd_ds.config import LearningRecipe, TrainingRecipe
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.objectives.targets import build_targets
from mvd_ds.tools.plan.codes import codebook_bytes, perceptual_bytes, search_bytes, state_bytes
from mvd_ds.tools.plan.sizes import NetworkSizes, RecipeSizes, teachers_of

#: Memory of the contexts of CUDA, NCCL and cuBLAS: 1.5-2.5 GB.
CONTEXT_BYTES = 2_000_000_000
#: Share of memory that is lost to fragmentation: 5-10 %.
FRAGMENTATION = 0.07
#: Memory of a loader process with its libraries.
WORKER_BYTES = 400_000_000


class MemoryEstimate(NamedTuple):
    """The bytes on a GPU and on a node, by part.

    Attributes:
        device: bytes on one GPU at the peak of a step; of parts that are never there together, the larger.
        host: bytes on one node.
    """

    device: dict[str, float]
    host: dict[str, float]

    @property
    def device_bytes(self) -> float:
        """Return the bytes on one GPU, with what fragmentation takes."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> float:
        """Return the bytes on one node."""
        return sum(self.host.values())


class States(NamedTuple):
    """The bytes that DeepSpeed 0.19.8 holds in a process between two steps.

    Attributes:
        weights: weights in training precision, whole or sharded, with those that stage 3 keeps whole beside its shard.
        gradients: accumulated sharded gradients; stages 1 and 2 free theirs after each step.
        optimizer: fp32 masters and both moments.
        buckets: buffers of stage 3, allocated once.
        moved: bytes among these that lie in host memory.
    """

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    moved: int

    @property
    def total(self) -> int:
        """Return the sum of all."""
        return self.weights + self.gradients + self.optimizer + self.buckets


def student_states(student: NetworkSizes, engine: dict[str, Any], world: int, bf16: bool) -> States:
    """Return the states of the student under an engine's config, exact to the padding (tests compare with a real engine).

    Stage 1 and 2: every parameter group is one flat buffer, padded to a multiple of 2 world elements; its weights stay
    whole, masters and moments are 12 bytes of every element over world. Stage 3: every tensor is padded to a multiple of
    world and sharded, weights, gradients (fp32 where several bf16 micro batches are added up) and states alike; tensors
    up to the persistence threshold are whole, too, between steps.

    Source: DeepSpeed 0.19.8, ``runtime/zero/stage_1_and_2.py`` and ``stage3.py``; measured.
    """
    zero = engine["zero_optimization"]
    size = 2 if bf16 else 4
    moved = 0
    if zero["stage"] < 3:
        padded = sum(_round_up(sum(group), 2 * world) for group in student.groups)
        optimizer = 12 * padded // world
        if _is_elsewhere(zero, "offload_optimizer"):
            moved = optimizer
        return States(size * padded, 0, optimizer, 0, moved)
    shard = sum(-(-count // world) for group in student.groups for count in group)
    # A single process has no copies: its shard is the whole.
    whole = size * student.small(zero.get("stage3_param_persistence_threshold", 100_000)) if world > 1 else 0
    gradient = 4 if engine.get("data_types", {}).get("grad_accum_dtype") == "fp32" else size
    states = States(size * shard + whole, gradient * shard, 12 * shard, size * zero["reduce_bucket_size"], 0)
    if _is_elsewhere(zero, "offload_optimizer"):
        moved += states.gradients + states.optimizer
    if _is_elsewhere(zero, "offload_param"):
        moved += size * shard
    return states._replace(moved=moved)


def _is_elsewhere(zero: dict[str, Any], part: str) -> bool:
    return zero.get(part, {}).get("device", "none") != "none"


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def plan_memory(
    recipe: LearningRecipe,
    sizes: RecipeSizes,
    engine: dict[str, Any],
    teacher_engines: dict[str, dict[str, Any]],
    world: int,
    node: int,
) -> MemoryEstimate:
    """Return the memory of one GPU at its peak, and of a node of ``node`` GPUs.

    Args:
        engine: DeepSpeed's dict for the student.
        teacher_engines: DeepSpeed's dict for each sharded teacher, by name.
    """
    bf16 = recipe.engine.precision == "bf16"
    states = student_states(sizes.student, engine, world, bf16)
    kept = states.optimizer + states.gradients + states.weights - states.moved
    device: dict[str, float] = {
        "weights, gradients, optimizer": kept,
        "live and buckets": states.buckets + _live_bytes(sizes.student, engine, world, bf16),
    }
    average, zero = _average_bytes(recipe, states), engine["zero_optimization"]
    if average and not _is_elsewhere(zero, "offload_optimizer"):
        device["moving average"] = average
    transient = 0.0
    for name, teacher in sizes.teachers.items():
        resident, running = _teacher_bytes(recipe, name, teacher, teacher_engines.get(name), world, node, bf16)
        device[f"teacher {name}"] = resident
        transient = max(transient, running)
    if isinstance(recipe, TokenizerRecipe):
        device["codebook"] = state_bytes(recipe)
        transient = max(transient, search_bytes(recipe.tokenizer.codes, recipe))
    student = activation_bytes(recipe, sizes)
    # Teachers are done before the student begins; their targets are counted with the student.
    device["activations"] = max(student, transient)
    device["clips"] = _clip_bytes(recipe)
    device["context"] = CONTEXT_BYTES
    device["fragmentation"] = FRAGMENTATION * (sum(device.values()) - CONTEXT_BYTES)
    return MemoryEstimate(device, _host_bytes(recipe, sizes, zero, states, world, node, bf16))


def _average_bytes(recipe: LearningRecipe, states: States) -> float:
    """Return the bytes of the moving average in a process, which lies where the masters do: 4 of the 12 of the optimizer's."""
    return states.optimizer / 3 if recipe.optimizer.ema_decay is not None else 0.0


def plain_step_bytes(recipe: LearningRecipe, sizes: RecipeSizes) -> dict[str, float]:
    """Return the bytes of a step in plain torch, as ``bench`` makes it, by part, without the rest of the process.

    Weights and both moments (and in bf16 fp32 masters) are there before it, and so are teachers. While it runs, activations
    of the student go as gradients come, so the larger of the two counts; gradients of the masters come beside those in bf16.
    """
    bf16 = recipe.engine.precision == "bf16"
    parameters = sizes.student.parameters
    running = [_teacher_bytes(recipe, name, teacher, None, 1, 1, bf16) for name, teacher in sizes.teachers.items()]
    gradients = (6.0 if bf16 else 4.0) * parameters
    parts = {
        "weights and moments": (14.0 if bf16 else 12.0) * parameters,
        "teachers": sum(resident for resident, _ in running),
        "activations or gradients": max(activation_bytes(recipe, sizes), gradients, *(transient for _, transient in running)),
        "clips": _clip_bytes(recipe),
    }
    return parts | {"fragmentation": FRAGMENTATION * sum(parts.values())}


def _live_bytes(student: NetworkSizes, engine: dict[str, Any], world: int, bf16: bool) -> float:
    """Return the bytes of gathered weights and of gradients not yet sharded while a step runs.

    Stage 1 holds all gradients until the last micro batch, stage 2 its share of them; both a bucket to reduce them through.
    Stage 3 keeps up to ``stage3_max_live_parameters`` and what is fetched ahead; all of them where that is more than it has.
    Then the full gradients of the running block. Source: design rules of DeepSpeed's stages; not measured on a GPU.
    """
    zero, size, count = engine["zero_optimization"], 2 if bf16 else 4, student.parameters
    block = size * student.block
    if zero["stage"] < 3:
        gradient = 4 if engine.get("data_types", {}).get("grad_accum_dtype") == "fp32" else size
        gradients = size * count if zero["stage"] == 1 else gradient * count / world
        return gradients + size * zero["reduce_bucket_size"] * (2 if zero.get("overlap_comm") else 1) + block
    live = min(count, zero["stage3_max_live_parameters"] + zero["stage3_prefetch_bucket_size"] + student.block)
    secondary = zero.get("zero_hpz_partition_size", 1)
    return size * live + block + (size * count / secondary if secondary > 1 else 0)


def _teacher_bytes(
    recipe: LearningRecipe, name: str, teacher: NetworkSizes, engine: dict[str, Any] | None, world: int, node: int, bf16: bool
) -> tuple[float, float]:
    """Return the resident bytes of a frozen teacher, and the bytes of its forward pass.

    Whole: its weights. Sharded: its share, what stays whole, and the blocks in flight; the share is in host memory with
    ``zero3_offload``, on a disk with ``zero3_nvme``, and one of a host's with ``zero3_node``. A forward without gradients holds
    about 20 bytes a token and channel in bf16: residual stream, packed qkv, hidden layer of the MLP before and after its
    activation, one block at a time; of networks of other libraries it is counted.
    """
    settings, size = teachers_of(recipe)[name], 2 if bf16 else 4
    clips = min(settings.chunk_clips or recipe.batch.micro, recipe.batch.micro)
    running = size * clips * (teacher.forward_values or 10 * teacher.width * teacher.tokens)
    # Features of the whole micro batch are kept until the masked ones are taken.
    running += size * teacher.width * teacher.tokens * recipe.batch.micro
    held, searched = codebook_bytes(recipe, settings)
    running += searched
    if engine is None:
        # Embeddings, norms and scales stay as they are: 1 % of a ViT-L.
        return (1 if settings.fp8 else size) * teacher.parameters + held, running
    zero = engine["zero_optimization"]
    sharers = min(world, node) if settings.placement == "zero3_node" else world
    share = 0.0 if settings.placement in ("zero3_offload", "zero3_nvme") else size * teacher.parameters / sharers
    flight = min(teacher.parameters, zero["stage3_prefetch_bucket_size"] + zero["stage3_max_live_parameters"])
    return held + share + size * teacher.small(zero.get("stage3_param_persistence_threshold", 100_000)), running + size * flight


def activation_bytes(recipe: LearningRecipe, sizes: RecipeSizes) -> float:
    """Return the bytes that forward keeps for backward, with those that the first block of backward takes beside them.

    A block with fused attention keeps 16 values a token and channel: its input, two normed copies, packed qkv (3), the
    attention's output, the sum before the MLP, and the hidden layer of width 4 before and after its activation. A block
    that is recomputed keeps its input alone, and one of them at a time is whole. Then, for every target, prediction,
    target and error in fp32 and their copy in training precision, 2 + 4 + 4 bytes an element in bf16, and what a target that
    compares tokens with one another says of itself. A block's backward holds
    gradients of 10 values at once: of both sides of the MLP's activation (4 + 4), of its input and of the residual stream.
    """
    size = 2 if recipe.engine.precision == "bf16" else 4
    samples = recipe.batch.micro * recipe.masks_per_clip
    every = recipe.model.activation_checkpointing
    encoder = _stack_bytes(sizes.student.blocks, every, sizes.student.width * sizes.student.tokens * samples * size)
    heads = [head for head in sizes.decoders.values() if head.blocks]
    decoders = sum(_stack_bytes(head.blocks, every, head.width * head.tokens * samples * size) for head in heads)
    losses = _loss_bytes(recipe, size) if isinstance(recipe, TrainingRecipe) else 0
    losses += perceptual_bytes(recipe, sizes.teachers) if isinstance(recipe, TokenizerRecipe) else 0
    streams = [sizes.student.width * sizes.student.tokens, *(head.width * head.tokens for head in heads)]
    largest = size * samples * max(streams)
    # Backward recomputes one block of the larger stack at a time.
    whole = 16 * largest if every else 0.0
    return encoder + decoders + losses + whole + 10 * largest


def _loss_bytes(recipe: TrainingRecipe, size: int) -> float:
    """Return the bytes of predictions, targets and errors, and of what else it takes to compare them."""
    samples, total = recipe.batch.micro * recipe.masks_per_clip, 0
    if isinstance(recipe, TokenizerRecipe):
        return (size + 8) * recipe.reconstructed.width * math.prod(recipe.grid) * samples
    for target in build_targets(recipe).values():
        tokens = recipe.token_counts[target.head.tokens]
        total += (size + 8) * target.head.width * tokens * samples + target.held_bytes(samples, tokens)
    return total


def _stack_bytes(blocks: int, every: int, values: float) -> float:
    """Return the bytes kept by a stack of ``blocks``, every n-th recomputed; ``values``: bytes of the residual stream."""
    recomputed = -(-blocks // every) if every else 0
    return values * (recomputed + 16 * (blocks - recomputed))


def _clip_bytes(recipe: LearningRecipe) -> float:
    """Return the bytes of a micro batch of clips: uint8, two fp32 copies while they are normalised, one in training precision."""
    size = 2 if recipe.engine.precision == "bf16" else 4
    return recipe.batch.micro * view_values(recipe) * (1 + 4 + 4 + size)


def view_values(recipe: LearningRecipe) -> int:
    """Return the numbers of all views of one clip, which are as many bytes before they are normalised."""
    seen = [recipe.data.clip.seen_as(view) for view in recipe.clip_views]
    return sum(3 * clip.frames * clip.size_px**2 for clip in seen)


def _host_bytes(
    recipe: LearningRecipe, sizes: RecipeSizes, zero: dict[str, Any], states: States, world: int, node: int, bf16: bool
) -> dict[str, float]:
    """Return the bytes of a node: networks that each process builds whole in fp32, loaders, and pinned offloaded states."""
    processes, size = min(world, node), 2 if bf16 else 4
    networks = sizes.student.parameters + sum(teacher.parameters for teacher in sizes.teachers.values())
    ready = max(recipe.data.workers, 1) * recipe.data.prefetch_batches * recipe.batch.micro * view_values(recipe)
    # Copies of gradients and masters for the way to the device, and their pinned blocks: 1.5 times.
    offloaded = 1.5 * states.moved
    if zero.get("offload_optimizer", {}).get("device") == "nvme":
        # Only the buffers that a sub-group passes through on its way: master, gradient and two moments, fp32.
        offloaded = 16.0 * min(zero.get("sub_group_size", 10**9), sizes.student.parameters / world)
    if _is_elsewhere(zero, "offload_optimizer"):
        offloaded += _average_bytes(recipe, states)
    for name, teacher in sizes.teachers.items():
        if teachers_of(recipe)[name].placement == "zero3_offload":
            offloaded += size * teacher.parameters / world
    return {
        "building the networks": 4.0 * networks * processes,
        "loader processes": float(recipe.data.workers * WORKER_BYTES * processes),
        "batches ready": float(ready * processes),
        "offloaded": offloaded * processes,
    }
