"""The dict DeepSpeed gets: a JSON of ds_configs/ plus what the recipe owns, with every contradiction refused.

The JSON owns ZeRO, offload, buckets and communication; the recipe owns batch sizes, precision, clipping, optimizer.
DeepSpeed accepts unknown top-level keys silently and knows no "auto", so both are refused here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mvd_ds.config import ConfigError, LearningRecipe, find_engine_config

#: Top-level keys a JSON of ours may hold.
JSON_KEYS = {
    "zero_optimization",
    "communication_data_type",
    "data_types",
    "aio",
    "checkpoint",
    "comms_logger",
    "log_level",
    "dump_state",
    "zero_force_ds_cpu_optimizer",
    "zero_allow_untested_optimizer",
    "wall_clock_breakdown",
    "disable_python_gc",
    "prescale_gradients",
    "gradient_predivide_factor",
}
#: Keys of the engine that the recipe owns, and the setting that does.
RECIPE_KEYS = {
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch.global / (batch.micro x processes)",
    "gradient_clipping": "optimizer.gradient_clipping",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "torch_autocast": "engine.precision",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "tensorboard": "run",
    "steps_per_print": "run.log_every_steps",
}


def student_config(recipe: LearningRecipe, world: int, block_parameters: int) -> dict[str, Any]:
    """DeepSpeed's dict for the student's engine.

    Args:
        block_parameters: parameters of the largest transformer block; ZeRO-3's prefetch is two of them.

    Raises:
        ConfigError: naming every fault of the JSON in one message.
    """
    path = find_engine_config(recipe.engine.config)
    values = _read(path)
    accumulation = recipe.batch.accumulation_steps(world)
    owned = {
        "train_batch_size": recipe.batch.global_,
        "train_micro_batch_size_per_gpu": recipe.batch.micro,
        "gradient_accumulation_steps": accumulation,
        # Written even when 0: DeepSpeed's own default is 1.0.
        "gradient_clipping": recipe.optimizer.gradient_clipping,
        "bf16": _precision(recipe),
    }
    faults = _faults(values, owned)
    stage = values.get("zero_optimization", {}).get("stage", 0)
    if recipe.engine.precision == "bf16" and stage == 0:
        faults.append("zero_optimization.stage 0 with engine.precision bf16 starts Adam one step late; use zero1.json")
    _raise(path, faults)
    merged = {**values, **owned, "log_level": values.get("log_level", "error")}
    if recipe.engine.precision == "bf16" and accumulation > 1 and stage >= 2:
        merged.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    _fill_thresholds(merged, block_parameters)
    return merged


def teacher_config(recipe: LearningRecipe, placement: str, block_parameters: int) -> dict[str, Any]:
    """DeepSpeed's dict for the inference-only engine of a sharded teacher.

    Raises:
        ConfigError: naming every fault of the JSON in one message.
    """
    path = find_engine_config(recipe.engine.teacher_config)
    values = _read(path)
    owned = {"train_micro_batch_size_per_gpu": recipe.batch.micro, "bf16": _precision(recipe)}
    faults = _faults(values, owned)
    zero = values.get("zero_optimization", {})
    if zero.get("stage") != 3:
        faults.append(f"zero_optimization.stage {zero.get('stage')}: a sharded teacher needs 3")
    _raise(path, faults)
    merged = {**values, **owned, "log_level": values.get("log_level", "error")}
    if placement == "zero3_offload":
        zero.setdefault("offload_param", {"device": "cpu", "pin_memory": True})
    elif zero.get("offload_param", {}).get("device", "none") != "none":
        _raise(path, [f"zero_optimization.offload_param contradicts placement {placement}; choose zero3_offload"])
    _fill_thresholds(merged, block_parameters)
    return merged


def _precision(recipe: LearningRecipe) -> dict[str, Any]:
    enabled = recipe.engine.precision == "bf16"
    return {"enabled": enabled, "check_grad_overflow": True} if enabled else {"enabled": False}


def _fill_thresholds(values: dict[str, Any], block_parameters: int) -> None:
    """Sizes in elements, where the JSON leaves them open.

    Two blocks of prefetch hide a gather behind a block; DeepSpeed's default of 5e7 would gather a small model whole.
    Four live blocks shard it truly; its default of 1e9 keeps every student up to H whole from forward to backward.
    """
    zero = values.setdefault("zero_optimization", {})
    # DeepSpeed allocates this buffer at once, and its default of 5e8 elements is larger than all states of a ViT-L.
    zero.setdefault("reduce_bucket_size", 50_000_000)
    if zero.get("stage") != 3:
        return
    zero.setdefault("stage3_prefetch_bucket_size", 2 * block_parameters)
    zero.setdefault("stage3_max_live_parameters", 4 * block_parameters)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    if not isinstance(values, dict) or not isinstance(values.get("zero_optimization", {}), dict):
        raise ConfigError(f"{path}: an engine config is a JSON object with an object zero_optimization")
    return values


def _faults(values: dict[str, Any], owned: dict[str, Any]) -> list[str]:
    faults = []
    for key, value in values.items():
        if key in owned:
            if value != owned[key]:
                faults.append(f"{key} {value} contradicts {RECIPE_KEYS[key]} of the recipe ({owned[key]}); leave it out")
        elif key in RECIPE_KEYS:
            faults.append(f"{key} belongs to the recipe ({RECIPE_KEYS[key]}); leave it out")
        elif key not in JSON_KEYS:
            faults.append(f"{key} is not a key the engine knows")
    faults += [f'{where} is "auto", which DeepSpeed does not resolve' for where in _autos(values)]
    zero = values.get("zero_optimization", {})
    if zero.get("stage") == 3 and zero.get("memory_efficient_linear", True):
        faults.append("zero_optimization.memory_efficient_linear must be false: it replaces Linear in the whole process")
    if zero.get("zero_quantized_nontrainable_weights"):
        faults.append("zero_optimization.zero_quantized_nontrainable_weights zeroes frozen weights in this DeepSpeed")
    return faults


def _autos(values: Any, prefix: str = "") -> list[str]:
    if isinstance(values, dict):
        return [found for key, value in values.items() for found in _autos(value, f"{prefix}.{key}" if prefix else key)]
    return [prefix] if values == "auto" else []


def _raise(path: Path, faults: list[str]) -> None:
    if faults:
        raise ConfigError("; ".join([f"{path}: {faults[0]}", *faults[1:]]))
