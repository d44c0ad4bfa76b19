"""The dict DeepSpeed gets: a JSON of ds_configs/ plus what the recipe and the network decide.

The JSON owns ZeRO, offload, buckets and communication; the recipe owns batch sizes, precision, clipping, optimizer; sizes
that follow from the network are filled in where the JSON leaves them open.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mvd_ds.config import LearningRecipe, TrainingRecipe, find_engine_config, uses_blocks_twice
from mvd_ds.training.engine.engine_json import ZeroFaults, faults_of, read_engine_json, refuse, settings_in

#: What a placement asks of a teacher's JSON: where its shards are kept.
SHARDS_ON = {"zero3": "none", "zero3_node": "none", "zero3_offload": "cpu", "zero3_nvme": "nvme"}
#: DeepSpeed's meter of throughput, whose figures nobody sees here, waits for the device twice a step.
UNMETERED = {"timers": {"throughput": {"enabled": False}}}
#: DeepSpeed aligns shards on NVMe to this many bytes for each of its reading threads.
NVME_ALIGNMENT = 1024


class Sizes(NamedTuple):
    """Sizes of a network that the engine's thresholds follow from."""

    block: int
    """Number of parameters of the largest transformer block."""
    tensor: int
    """Number of elements of the largest parameter."""
    tensors_per_block: int
    """Number of parameter tensors of a block."""


class Place(NamedTuple):
    """The processes and the disk that an engine runs on."""

    world: int
    """Number of processes that share the parameters."""
    per_host: int = 1
    """Number of processes of this host."""
    nvme: Path | None = None
    """Folder on a node-local disk for this engine's shards alone (``engine.nvme_folder``)."""


def sizes_of(model: nn.Module) -> Sizes:
    """Return the sizes of ``model`` that the engine's thresholds follow from."""
    blocks = [list(module.parameters()) for module in model.modules() if type(module).__name__ == "Block"]
    return Sizes(
        block=max((sum(p.numel() for p in block) for block in blocks), default=1),
        tensor=max((p.numel() for p in model.parameters()), default=1),
        tensors_per_block=max(map(len, blocks), default=1),
    )


def student_config(recipe: LearningRecipe, place: Place, sizes: Sizes, zero_faults: ZeroFaults) -> dict[str, Any]:
    """Return DeepSpeed's dict for the student's engine.

    Raises:
        ConfigError: naming every fault of the JSON in one message.
    """
    path = find_engine_config(recipe.engine.config)
    values, twice = read_engine_json(path)
    accumulation = recipe.batch.accumulation_steps(place.world)
    owned = {
        "train_batch_size": recipe.batch.global_,
        "train_micro_batch_size_per_gpu": recipe.batch.micro,
        "gradient_accumulation_steps": accumulation,
        # Written even when 0: DeepSpeed's own default is 1.0.
        "gradient_clipping": recipe.optimizer.gradient_clipping,
        "bf16": _precision(recipe),
    }
    zero = values.setdefault("zero_optimization", {})
    stage = zero.get("stage", 0)
    faults = twice + faults_of(values, owned, zero_faults) + _fill_node(zero, place) + _fill_nvme(zero, place, sizes)
    if recipe.engine.precision == "bf16" and stage == 0:
        faults.append("zero_optimization.stage 0 with engine.precision bf16 starts Adam one step late; use zero1.json")
    if zero.get("compute_grad_norm") is False:
        faults.append("zero_optimization.compute_grad_norm false: a step that is not finite would not be seen; remove it")
    if settings_in(zero, "offload_param").get("device", "none") != "none":
        faults.append("zero_optimization.offload_param: a student's parameters stay on their device; offload the optimizer")
    refuse(path, faults)
    if isinstance(recipe, TrainingRecipe) and (recipe.local_tokens or uses_blocks_twice(recipe.language)):
        # A second pass of the encoder's blocks, of local crops or texts: leaf modules reduce their gradients after the first.
        zero.pop("leaf_module", None)
    merged = _merged(values, owned)
    if recipe.engine.precision == "bf16" and accumulation > 1 and stage >= 2:
        merged.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    _fill_thresholds(zero, sizes)
    return merged


def teacher_config(recipe: LearningRecipe, placement: str, place: Place, sizes: Sizes, zero_faults: ZeroFaults) -> dict[str, Any]:
    """Return DeepSpeed's dict for the inference-only engine of a sharded teacher.

    Raises:
        ConfigError: naming every fault of the JSON in one message.
    """
    path = find_engine_config(recipe.engine.teacher_config)
    values, twice = read_engine_json(path)
    owned = {"train_micro_batch_size_per_gpu": recipe.batch.micro, "bf16": _precision(recipe)}
    zero = values.setdefault("zero_optimization", {})
    faults = twice + faults_of(values, owned, zero_faults)
    if zero.get("stage") != 3:
        faults.append(f"zero_optimization.stage {zero.get('stage')}: a sharded teacher needs 3")
    if zero.get("zero_hpz_partition_size", 1) != 1:
        faults.append("zero_optimization.zero_hpz_partition_size: for a teacher, choose placement zero3_node")
    device = SHARDS_ON[placement]
    stated = settings_in(zero, "offload_param").get("device", "none")
    if device != "none" and zero.get("offload_param") is None:
        zero["offload_param"] = {"device": device, "pin_memory": True}
    elif stated != device:
        fitting = next(name for name, where in SHARDS_ON.items() if where == stated)
        faults.append(f"zero_optimization.offload_param contradicts placement {placement}; choose {fitting}")
    faults += _fill_nvme(zero, place, sizes)
    refuse(path, faults)
    _fill_thresholds(zero, sizes)
    return _merged(values, owned)


def _merged(values: dict[str, Any], owned: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON's values with the recipe's in place of them, and DeepSpeed's log and meter turned down."""
    return {**values, **owned, **UNMETERED, "log_level": values.get("log_level", "error")}


def _precision(recipe: LearningRecipe) -> dict[str, Any]:
    """Return the key ``bf16``; DeepSpeed then asks whether the gradient is finite, which an ``UpdateGate`` answers."""
    enabled = recipe.engine.precision == "bf16"
    return {"enabled": enabled, "check_grad_overflow": True} if enabled else {"enabled": False}


def _fill_thresholds(zero: dict[str, Any], sizes: Sizes) -> None:
    """Fill in sizes, in elements, where the JSON leaves them open.

    Two blocks of prefetch hide a gather behind a block; DeepSpeed's default of 5e7 would gather a small model whole.
    Four live blocks shard it truly; its default of 1e9 keeps every student up to H whole from forward to backward.
    """
    # DeepSpeed allocates this buffer at once, and its default of 5e8 elements is larger than all states of a ViT-L.
    zero.setdefault("reduce_bucket_size", 50_000_000)
    if zero.get("stage") != 3:
        return
    zero.setdefault("stage3_prefetch_bucket_size", 2 * sizes.block)
    zero.setdefault("stage3_max_live_parameters", 4 * sizes.block)


def _fill_node(zero: dict[str, Any], place: Place) -> list[str]:
    """Fill in all processes of the host for a secondary partition of 0; return a fault if the JSON has another number."""
    size = zero.get("zero_hpz_partition_size", 1)
    if size == 0:
        zero["zero_hpz_partition_size"] = place.per_host
    elif size not in (1, place.per_host):
        where = f"zero_optimization.zero_hpz_partition_size {size}"
        return [f"{where}: this host runs {place.per_host} processes; write that, or 0 for it"]
    return []


def _fill_nvme(zero: dict[str, Any], place: Place, sizes: Sizes) -> list[str]:
    """Fill in folder and buffers of whatever the JSON puts on NVMe; return a fault if no folder is set.

    A buffer holds a shard of the largest parameter; there are enough for the blocks that are prefetched and the one that
    runs, and DeepSpeed stops with an assertion where there are not.
    """
    parts = [settings_in(zero, key) for key in ("offload_param", "offload_optimizer")]
    wanted = [part for part in parts if part.get("device") == "nvme"]
    if wanted and place.nvme is None:
        return ["shards on NVMe need a folder on a node-local disk: set engine.nvme_folder"]
    for part in wanted:
        part.setdefault("nvme_path", str(place.nvme))
    if settings_in(zero, "offload_param").get("device") == "nvme":
        shard = math.ceil(sizes.tensor / place.world)
        zero["offload_param"].setdefault("buffer_size", math.ceil(shard / NVME_ALIGNMENT) * NVME_ALIGNMENT)
        zero["offload_param"].setdefault("buffer_count", 4 * sizes.tensors_per_block)
    return []
